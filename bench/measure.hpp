// Measuring: contenders run in turns, many short repetitions each, so that a disturbance hits all
// alike; the minimum is what the code costs, median and p99 say what it costs here. Results are one
// JSON array (DESIGN §5).
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

namespace bpftime::bench {

inline uint64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000 + static_cast<uint64_t>(t.tv_nsec);
}

struct Contender {
  std::string scenario, name;
  std::function<void()> run;  // the timed loop: `calls` operations
  uint64_t calls = 1;
  std::function<void()> before = {};  // untimed, before each repetition (arm, patch)
  std::function<void()> after = {};   // untimed
  std::string net_of = {};  // contender whose figures are subtracted (same scenario), else none
};

struct Figure {
  std::string scenario, contender, unit;
  double min, median, p99;
  uint64_t n;
};

inline double quantile(const std::vector<double>& sorted, double q) {
  const auto at = static_cast<size_t>(q * static_cast<double>(sorted.size() - 1) + 0.5);
  return sorted[at];
}

// ns per operation of each contender, in its order; `repetitions` turns after one warm-up turn.
inline std::vector<Figure> measure(const std::vector<Contender>& contenders, uint64_t repetitions) {
  std::vector<std::vector<double>> times(contenders.size());
  for (uint64_t turn = 0; turn <= repetitions; turn++) {
    for (size_t i = 0; i < contenders.size(); i++) {
      const Contender& c = contenders[i];
      if (c.before) {
        c.before();
      }
      const uint64_t begin = now_ns();
      c.run();
      const uint64_t end = now_ns();
      if (c.after) {
        c.after();
      }
      if (turn > 0) {
        times[i].push_back(static_cast<double>(end - begin) / static_cast<double>(c.calls));
      }
    }
  }
  std::vector<Figure> gross;
  for (size_t i = 0; i < contenders.size(); i++) {
    std::sort(times[i].begin(), times[i].end());
    gross.push_back({contenders[i].scenario, contenders[i].name, "ns", times[i].front(),
                     quantile(times[i], 0.5), quantile(times[i], 0.99), repetitions});
  }
  std::vector<Figure> result = gross;
  for (size_t i = 0; i < contenders.size(); i++) {
    for (size_t j = 0; j < contenders.size(); j++) {
      if (!contenders[i].net_of.empty() && contenders[j].name == contenders[i].net_of &&
          contenders[j].scenario == contenders[i].scenario) {
        result[i].min -= gross[j].min;
        result[i].median -= gross[j].median;
        result[i].p99 -= gross[j].median;
      }
    }
  }
  return result;
}

inline void print_json(const std::vector<Figure>& figures, std::FILE* to = stdout) {
  std::fputs("[\n", to);
  for (size_t i = 0; i < figures.size(); i++) {
    const Figure& f = figures[i];
    std::fprintf(to,
                 "  {\"scenario\": \"%s\", \"contender\": \"%s\", \"unit\": \"%s\", \"min\": %.2f, "
                 "\"median\": %.2f, \"p99\": %.2f, \"n\": %llu}%s\n",
                 f.scenario.c_str(), f.contender.c_str(), f.unit.c_str(), f.min, f.median, f.p99,
                 static_cast<unsigned long long>(f.n), i + 1 < figures.size() ? "," : "");
  }
  std::fputs("]\n", to);
}

}  // namespace bpftime::bench
