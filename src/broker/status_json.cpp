// The adapter of nlohmann/json: the only file of the broker that includes it. Built without
// exceptions, where the library aborts instead of throwing; nothing here does what it would throw
// for.
#include <nlohmann/json.hpp>

#include "broker/status_text.hpp"

namespace bpftime {

std::string status_json(const SessionStatus& status) {
  using Json = nlohmann::ordered_json;
  Json out;
  out["broker_pid"] = status.broker_pid;
  out["targets"] = Json::array();
  for (const auto& target : status.targets) {
    Json row{{"pid", target.pid},
             {"exe", target.exe},
             {"way", target.way},
             {"sites", target.sites},
             {"missed", target.missed},
             {"stopped_us", target.stopped_us},
             {"private_kb", target.private_kb}};
    row["links"] = Json::array();
    for (const auto& link : target.links) {
      row["links"].push_back(Json{{"link", link.link},
                                  {"placed", link.placed},
                                  {"why_not", link.why_not},
                                  {"run", link.run},
                                  {"missed", link.missed},
                                  {"faulted", link.faulted},
                                  {"out_of_budget", link.out_of_fuel}});
    }
    out["targets"].push_back(std::move(row));
  }
  out["programs"] = Json::array();
  for (const auto& program : status.programs) {
    const char* type = program_type_name(program.type);
    out["programs"].push_back(Json{{"id", program.id},
                                   {"type", type == nullptr ? "?" : type},
                                   {"name", program.name},
                                   {"license", program.license},
                                   {"instructions", program.insns},
                                   {"code_bytes", program.code_bytes},
                                   {"verified", program.verified},
                                   {"maps", program.maps}});
  }
  out["probes"] = Json::array();
  for (const auto& probe : status.probes) {
    out["probes"].push_back(Json{{"path", probe.path},
                                 {"offset", probe.offset},
                                 {"return", probe.is_return},
                                 {"pid", probe.pid},
                                 {"enabled", probe.enabled},
                                 {"disarmed", probe.disarmed},
                                 {"link", probe.link},
                                 {"program", probe.program},
                                 {"cookie", probe.cookie}});
  }
  out["maps"] = Json::array();
  for (const auto& map : status.maps) {
    const MapKind* kind = find_map_kind(map.spec.map_type);
    out["maps"].push_back(Json{{"id", map.id},
                               {"type", kind == nullptr ? "?" : kind->name},
                               {"name", map.name},
                               {"key_size", map.spec.key_size},
                               {"value_size", map.spec.value_size},
                               {"max_entries", map.spec.max_entries},
                               {"region_bytes", map.region_bytes},
                               {"frozen", map.frozen}});
  }
  return out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace bpftime
