// The adapter of nlohmann/json: the only file of the broker that includes it. Built without
// exceptions, where the library aborts instead of throwing; nothing here does what it would throw
// for.
#include <nlohmann/json.hpp>

#include "broker/status_text.hpp"

namespace bpftime {

namespace {

using Json = nlohmann::ordered_json;

Json programs_of(const SessionStatus& status) {
  Json rows = Json::array();
  for (const auto& program : status.programs) {
    const char* type = program_type_name(program.type);
    rows.push_back(Json{{"id", program.id},
                        {"type", type == nullptr ? "?" : type},
                        {"name", program.name},
                        {"license", program.license},
                        {"instructions", program.insns},
                        {"code_bytes", program.code_bytes},
                        {"verified", program.verifier != nullptr},
                        {"verifier", program.verifier == nullptr ? Json() : Json(program.verifier)},
                        {"maps", program.maps}});
  }
  return rows;
}

Json maps_of(const SessionStatus& status) {
  Json rows = Json::array();
  for (const auto& map : status.maps) {
    const MapKind* kind = find_map_kind(map.spec.map_type);
    rows.push_back(Json{{"id", map.id},
                        {"type", kind == nullptr ? "?" : kind->name},
                        {"name", map.name},
                        {"key_size", map.spec.key_size},
                        {"value_size", map.spec.value_size},
                        {"max_entries", map.spec.max_entries},
                        {"region_bytes", map.region_bytes},
                        {"dropped", map.dropped},
                        {"frozen", map.frozen}});
  }
  return rows;
}

Json targets_of(const SessionStatus& status) {
  Json rows = Json::array();
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
                                  {"hits", link.run},
                                  {"hit_ns", link.ns},
                                  {"missed", link.missed},
                                  {"faulted", link.faulted},
                                  {"out_of_budget", link.out_of_fuel}});
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

Json probe_of(const SessionStatus::Probe& probe) {
  return Json{{"path", probe.path},        {"offset", probe.offset},
              {"return", probe.is_return}, {"pid", probe.pid},
              {"enabled", probe.enabled},  {"disarmed", probe.disarmed},
              {"link", probe.link},        {"program", probe.program},
              {"cookie", probe.cookie},    {"session", probe.is_session},
              {"places", probe.places}};
}

Json links_of(const SessionStatus& status) {
  Json rows = Json::array();
  for (const auto& probe : status.probes) {
    if (probe.link == 0) {
      continue;
    }
    Json row = probe_of(probe);
    const LinkTotals totals = totals_of(status, probe.link);
    row["targets"] = totals.targets;
    row["placed"] = totals.placed;
    row["why_not"] = totals.why_not;
    row["hits"] = totals.run;
    row["hit_ns"] = totals.ns;
    row["missed"] = totals.missed;
    row["faulted"] = totals.faulted;
    row["out_of_budget"] = totals.out_of_fuel;
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string text_of(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

std::string status_json(const SessionStatus& status) {
  Json out;
  out["broker_pid"] = status.broker_pid;
  out["targets"] = targets_of(status);
  out["programs"] = programs_of(status);
  out["probes"] = Json::array();
  for (const auto& probe : status.probes) {
    out["probes"].push_back(probe_of(probe));
  }
  out["maps"] = maps_of(status);
  return text_of(out);
}

std::string list_json(Listing what, const SessionStatus& status) {
  switch (what) {
    case Listing::kPrograms:
      return text_of(programs_of(status));
    case Listing::kMaps:
      return text_of(maps_of(status));
    case Listing::kLinks:
      return text_of(links_of(status));
    case Listing::kTargets:
      return text_of(targets_of(status));
  }
  return "[]\n";
}

}  // namespace bpftime
