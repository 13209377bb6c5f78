// The listings of `bpftime prog|map|link|target list`: columns as wide as what stands in them, numbers to the right.
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "broker/status_text.hpp"

namespace bpftime {
namespace {

class Table {
 public:
  // A heading that begins with '>' is for numbers.
  explicit Table(std::vector<std::string> headings) {
    for (std::string& heading : headings) {
      const bool is_number = heading[0] == '>';
      is_number_.push_back(is_number);
      heading.erase(0, is_number ? 1 : 0);
    }
    rows_.push_back(std::move(headings));
  }
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  [[nodiscard]] std::string text() const {
    std::vector<size_t> widths(is_number_.size());
    for (const auto& row : rows_) {
      for (size_t i = 0; i < row.size(); i++) {
        widths[i] = std::max(widths[i], row[i].size());
      }
    }
    std::string out;
    for (const auto& row : rows_) {
      for (size_t i = 0; i < row.size(); i++) {
        const std::string gap(widths[i] - row[i].size(), ' ');
        const bool is_last = i + 1 == row.size();
        out += is_number_[i] ? gap + row[i] : row[i] + (is_last ? "" : gap);
        out += is_last ? "\n" : "  ";
      }
    }
    return out;
  }

 private:
  std::vector<bool> is_number_;
  std::vector<std::vector<std::string>> rows_;
};

template <class T>
std::string number(T value) {
  return std::to_string(value);
}

std::string numbers(const std::vector<uint32_t>& values) {
  std::string text;
  for (const uint32_t value : values) {
    text += (text.empty() ? "" : ",") + number(value);
  }
  return text.empty() ? "-" : text;
}

std::string or_dash(const char* text) { return text == nullptr || *text == 0 ? "-" : text; }

std::string programs(const SessionStatus& status) {
  Table table({">ID", "TYPE", "NAME", ">INSNS", ">CODE", "VERIFIED", "LICENSE", "MAPS"});
  for (const auto& p : status.programs) {
    table.add({number(p.id), or_dash(program_type_name(p.type)), or_dash(p.name.c_str()),
               number(p.insns), number(p.code_bytes), p.verifier == nullptr ? "no" : p.verifier,
               or_dash(p.license.c_str()), numbers(p.maps)});
  }
  return table.text();
}

std::string maps(const SessionStatus& status) {
  Table table({">ID", "TYPE", "NAME", ">KEY", ">VALUE", ">MAX", "FLAGS", "STATE"});
  for (const auto& m : status.maps) {
    const MapKind* kind = find_map_kind(m.spec.map_type);
    char flags[16];
    std::snprintf(flags, sizeof(flags), "0x%x", m.spec.map_flags);
    table.add({number(m.id), or_dash(kind == nullptr ? nullptr : kind->name),
               or_dash(m.name.c_str()), number(m.spec.key_size), number(m.spec.value_size),
               number(m.spec.max_entries), flags, m.frozen ? "frozen" : "-"});
  }
  return table.text();
}

std::string state_of(const SessionStatus::Probe& probe, const LinkTotals& totals) {
  if (probe.disarmed) {
    return "disarmed";
  }
  if (!probe.enabled) {
    return "disabled";
  }
  if (totals.placed == 0) {
    return totals.why_not.empty() ? "no target" : totals.why_not;
  }
  return totals.why_not.empty() ? "armed" : "armed in part: " + totals.why_not;
}

std::string links(const SessionStatus& status) {
  Table table({">ID", ">PROG", "KIND", "PLACE", ">PID", ">TARGETS", ">HITS", ">MISSED", ">NS/HIT",
               ">FAULTED", "STATE"});
  for (const auto& p : status.probes) {
    if (p.link == 0) {
      continue;
    }
    const LinkTotals t = totals_of(status, p.link);
    char offset[24];
    std::snprintf(offset, sizeof(offset), "+0x%" PRIx64, p.offset);
    std::string place = p.path + offset;
    if (p.places > 1) {
      place += " and " + number(p.places - 1) + " more";
    }
    table.add({number(p.link), number(p.program),
               p.is_session ? "session" : (p.is_return ? "uretprobe" : "uprobe"), place,
               p.pid > 0 ? number(p.pid) : "any", number(t.placed),
               t.run == 0 ? "-" : number(t.run), number(t.missed),
               t.run == 0 ? "-" : number(t.ns / t.run), number(t.faulted + t.out_of_fuel),
               state_of(p, t)});
  }
  return table.text();
}

std::string targets(const SessionStatus& status) {
  Table table({">PID", ">LINKS", ">SITES", ">MISSED", ">STOPPED_US", ">PRIVATE_KB", "WAY", "EXE"});
  for (const auto& t : status.targets) {
    const auto placed =
        std::count_if(t.links.begin(), t.links.end(), [](const auto& link) { return link.placed; });
    table.add({number(t.pid), number(placed), number(t.sites), number(t.missed),
               number(t.stopped_us), number(t.private_kb), t.way, t.exe});
  }
  return table.text();
}

}  // namespace

LinkTotals totals_of(const SessionStatus& status, uint32_t link) {
  LinkTotals totals;
  for (const auto& target : status.targets) {
    for (const auto& state : target.links) {
      if (state.link != link) {
        continue;
      }
      totals.targets++;
      if (state.placed) {
        totals.placed++;
      }
      if (!state.why_not.empty()) {
        totals.why_not = state.why_not;
      }
      totals.run += state.run;
      totals.ns += state.ns;
      totals.missed += state.missed;
      totals.faulted += state.faulted;
      totals.out_of_fuel += state.out_of_fuel;
    }
  }
  return totals;
}

std::string list_text(Listing what, const SessionStatus& status) {
  switch (what) {
    case Listing::kPrograms:
      return programs(status);
    case Listing::kMaps:
      return maps(status);
    case Listing::kLinks:
      return links(status);
    case Listing::kTargets:
      return targets(status);
  }
  return "";
}

}  // namespace bpftime
