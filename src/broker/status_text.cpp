#include "broker/status_text.hpp"

#include <cinttypes>
#include <cstdarg>
#include <cstdio>

namespace bpftime {
namespace {

__attribute__((format(printf, 2, 3))) void add(std::string* to, const char* format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  const int n = std::vsnprintf(text, sizeof(text), format, args);
  va_end(args);
  if (n > 0) {
    *to += text;
  }
}

const char* type_of(const MapSpec& spec) {
  const MapKind* kind = find_map_kind(spec.map_type);
  return kind == nullptr ? "?" : kind->name;
}

}  // namespace

std::string status_text(const SessionStatus& status) {
  std::string out;
  add(&out, "broker %d: %zu targets, %zu programs, %zu maps, %zu probes\n", status.broker_pid,
      status.targets.size(), status.programs.size(), status.maps.size(), status.probes.size());
  for (const auto& target : status.targets) {
    add(&out, "target %d %s (%s), %u sites, %" PRIu64 " missed\n", target.pid, target.exe.c_str(),
        target.way.c_str(), target.sites, target.missed);
    for (const auto& link : target.links) {
      if (!link.placed) {
        add(&out, "  link %u not placed: %s\n", link.link, link.why_not.c_str());
        continue;
      }
      add(&out, "  link %u placed", link.link);
      if (link.missed != 0) {
        add(&out, ", missed %" PRIu64, link.missed);
      }
      if (link.faulted + link.out_of_fuel != 0) {
        add(&out, ", faulted %" PRIu64 ", out of budget %" PRIu64, link.faulted, link.out_of_fuel);
      }
      out += '\n';
    }
  }
  for (const auto& program : status.programs) {
    const char* type = program_type_name(program.type);
    add(&out, "program %u %s %s: %u instructions, %" PRIu64 " bytes of code%s\n", program.id,
        type == nullptr ? "?" : type, program.name.c_str(), program.insns, program.code_bytes,
        program.verifier != nullptr ? "" : ", not verified");
  }
  for (const auto& probe : status.probes) {
    add(&out, "probe %s+0x%" PRIx64 "%s", probe.path.c_str(), probe.offset,
        probe.is_return ? " return" : "");
    if (probe.pid > 0) {
      add(&out, " of process %d", probe.pid);
    }
    if (probe.program != 0) {
      add(&out, ": link %u, program %u", probe.link, probe.program);
    }
    out += probe.disarmed ? ", disarmed\n" : probe.enabled ? "\n" : ", disabled\n";
  }
  for (const auto& map : status.maps) {
    add(&out, "map %u %s %s: key %u, value %u, max %u%s", map.id, type_of(map.spec),
        map.name.c_str(), map.spec.key_size, map.spec.value_size, map.spec.max_entries,
        map.frozen ? ", frozen" : "");
    if (map.dropped != 0) {
      add(&out, ", dropped %" PRIu64, map.dropped);
    }
    out += '\n';
  }
  return out;
}

}  // namespace bpftime
