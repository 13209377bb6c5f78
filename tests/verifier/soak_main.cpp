// Layer A at full length, layers B and C over seeds that no test has taken: each goes on where it stopped.
// Usage: verifier_soak embed|compare [--seconds N] [--programs N] [--state FILE] [--from SEED] [--keep-going] [--reasons]
//        verifier_soak scalar [...]  a program is a million random checks at 64 bits
//        verifier_soak four_bits [...]  a program is one value of the 4-bit domain with all others
//        verifier_soak show SEED [--no-pruning]
// Exit status 1: something did not fit; the seed is printed and stays the next one.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <map>
#include <string>

#include "tests/verifier/layers.hpp"
#include "tests/verifier/scalar_soak.hpp"

namespace bpftime::testing {
namespace {

struct Settings {
  std::string mode, state_file;
  double seconds = 60;
  uint64_t programs = ~0ULL, seed = 1'000'000;
  bool keep_going = false, show_reasons = false;
};

uint64_t read_seed(const std::string& path, uint64_t otherwise) {
  std::FILE* file = path.empty() ? nullptr : std::fopen(path.c_str(), "r");
  unsigned long seed = otherwise;
  if (file != nullptr) {
    if (std::fscanf(file, "%lu", &seed) != 1) {
      seed = otherwise;
    }
    std::fclose(file);
  }
  return seed;
}
// As a whole or not at all: whoever ends the soak may do so at any time.
void write_seed(const std::string& path, uint64_t seed) {
  const std::string beside = path + ".new";
  if (std::FILE* file = path.empty() ? nullptr : std::fopen(beside.c_str(), "w"); file != nullptr) {
    std::fprintf(file, "%lu\n", seed);
    if (std::fclose(file) == 0) {
      std::rename(beside.c_str(), path.c_str());
    }
  }
}

int soak(const Settings& settings) {
  const bool is_embed = settings.mode == "embed";
  auto layers = Layers::make(!is_embed || KernelVerifier::available().has_value());
  if (!layers) {
    std::fprintf(stderr, "verifier_soak: %s\n", layers.error().why);
    return 1;
  }
  LayerCounts counts;
  const auto begin = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  uint64_t seed = read_seed(settings.state_file, settings.seed), faults = 0;
  for (; counts.programs < settings.programs && elapsed() < settings.seconds; ++seed) {
    const std::string fault =
        is_embed ? (*layers)->embed(seed, &counts) : (*layers)->compare(seed, &counts);
    if (!fault.empty()) {
      ++faults;
      std::printf("seed %lu: %s\n", seed, fault.c_str());
      if (!settings.keep_going) {
        std::fputs((*layers)->show(seed).c_str(), stdout);
        break;
      }
    }
    if (counts.programs % 1000 == 0) {
      write_seed(settings.state_file, seed + 1);
    }
  }
  write_seed(settings.state_file, seed);
  const double core = static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  std::printf(
      "%s: %lu programs in %.1f s, %.1f s of a core (%.0f a core-minute), %lu accepted by us (%.0f a core-minute)",
      settings.mode.c_str(), counts.programs, elapsed(), core,
      static_cast<double>(counts.programs) * 60 / core, counts.accepted,
      static_cast<double>(counts.accepted) * 60 / core);
  if (is_embed) {
    std::printf(
        ", %lu runs, %lu states compared, %lu refused without pruning, %lu with bounded loops",
        counts.runs, counts.compared, counts.refused_unpruned, counts.bounded_loops);
  } else {
    std::printf(
        ", %lu by the kernel, %lu by both, agreement %.2f %%, %lu too large for the kernel, %lu where we know a range better, %lu on paths that nobody takes",
        counts.kernel_accepted, counts.both_accepted,
        100.0 * static_cast<double>(counts.both_accepted + counts.both_rejected) /
            static_cast<double>(counts.programs),
        counts.too_large, counts.more_precise, counts.off_paths);
  }
  std::printf(", %lu faults; next seed %lu\n", faults, seed);
  if (settings.show_reasons) {
    std::multimap<uint64_t, std::string, std::greater<>> sorted;
    for (const auto& [reason, count] : counts.reasons) {
      sorted.emplace(count, reason);
    }
    for (const auto& [count, reason] : sorted) {
      std::printf("%8lu %s\n", count, reason.c_str());
    }
  }
  return faults == 0 ? 0 : 1;
}

// Layer A. Seeds are blocks of random checks, or rows of the 4-bit domain, of which there is an end.
int soak_scalars(const Settings& settings) {
  const bool is_random = settings.mode == "scalar";
  const auto begin = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  const uint64_t first = read_seed(settings.state_file, 0);
  const uint64_t end = is_random ? ~0ULL : four_bit_rows();
  std::string fault;
  uint64_t at = first;
  for (; at < end && at - first < settings.programs && elapsed() < settings.seconds; ++at) {
    fault = is_random ? check_random_block(at) : check_four_bit_row(at);
    if (!fault.empty()) {
      std::printf("%s %lu: unsound: %s\n", settings.mode.c_str(), at, fault.c_str());
      break;
    }
    write_seed(settings.state_file, at + 1);
  }
  std::printf("%s: %lu to %lu%s in %.1f s, %s\n", settings.mode.c_str(), first, at,
              at == end ? ", all" : "", elapsed(), fault.empty() ? "sound" : "UNSOUND");
  return fault.empty() ? 0 : 1;
}

int run(int argc, char** argv) {
  Settings settings;
  settings.mode = argc > 1 ? argv[1] : "";
  if (settings.mode == "show" && argc > 2) {
    auto layers = Layers::make(KernelVerifier::available().has_value());
    std::fputs(
        layers ? (*layers)->show(std::strtoull(argv[2], nullptr, 10), argc == 3).c_str() : "",
        stdout);
    return 0;
  }
  for (int i = 2; i < argc; ++i) {
    const std::string word = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : "0";
    if (word == "--keep-going") {
      settings.keep_going = true;
      continue;
    }
    if (word == "--reasons") {
      settings.show_reasons = true;
      continue;
    }
    ++i;
    if (word == "--seconds") {
      settings.seconds = std::strtod(value, nullptr);
    } else if (word == "--programs") {
      settings.programs = std::strtoull(value, nullptr, 10);
      settings.seconds = 1e9;
    } else if (word == "--state") {
      settings.state_file = value;
    } else if (word == "--from") {
      settings.seed = std::strtoull(value, nullptr, 10);
    }
  }
  if (settings.mode == "scalar" || settings.mode == "four_bits") {
    return soak_scalars(settings);
  }
  if (settings.mode != "embed" && settings.mode != "compare") {
    std::fputs(
        "usage: verifier_soak scalar|four_bits|embed|compare [--seconds N] [--programs N] [--state FILE] [--from SEED] [--keep-going] | show SEED\n",
        stderr);
    return 2;
  }
  return soak(settings);
}

}  // namespace
}  // namespace bpftime::testing

int main(int argc, char** argv) { return bpftime::testing::run(argc, argv); }
