// vm/NAME: one run of a program, native and on our engines (results compared); vm/geomean: ratios
// to native_o2, of the programs that take at least 20 ns. compile/NAME: decode and compile, in us.
// `jit_uncounted` is the jit without a budget.
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>

#include "bench/measure.hpp"
#include "tests/vm/engines.hpp"

extern "C" {
#define X(name)                                        \
  uint64_t native_o2_##name(const uint8_t*, uint64_t); \
  uint64_t native_march_##name(const uint8_t*, uint64_t);
#include "programs.inc"
#undef X
}

namespace bpftime::bench {
namespace {

using Native = uint64_t (*)(const uint8_t*, uint64_t);
using Code = uint64_t (*)(void*, Hit*, uint64_t);
struct Program {
  const char* name;
  Native native_o2, native_march;
};
constexpr Program kPrograms[] = {
#define X(name) {#name, native_o2_##name, native_march_##name},
#include "programs.inc"
#undef X
};
constexpr size_t kMemory = 4096;
volatile uint64_t sink;

[[noreturn]] void die(const char* program, const char* why) {
  std::fprintf(stderr, "bench_vm: %s: %s\n", program, why);
  std::exit(1);
}

std::vector<std::byte> read_program(const char* name) {
  std::ifstream file(std::string(BPFTIME_VM_PROGRAMS) + "/" + name + ".bpf", std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
  const auto* begin = reinterpret_cast<const std::byte*>(bytes.data());
  return {begin, begin + bytes.size()};
}

struct Ready {
  std::vector<std::byte> bytes;
  std::unique_ptr<Interpreter> interpreter;
  std::unique_ptr<CodeMapping> counted, uncounted;
};

std::unique_ptr<CodeMapping> compile(const DecodedProgram& program, bool counts) {
  CompileOptions options;
  options.count_fuel = counts;
  options.has_bmi2 = host_has_bmi2();
  options.takes_length = true;
  auto compiled = compile_x64(program, options);
  if (!compiled) {
    return nullptr;
  }
  auto code = CodeMapping::map(compiled.value().code);
  return code ? std::make_unique<CodeMapping>(std::move(code).value()) : nullptr;
}

int run(uint64_t repetitions) {
  std::vector<Figure> figures;
  std::map<std::string, std::vector<double>> ratios;
  std::vector<double> compile_us;
  alignas(64) static uint8_t memory[kMemory];
  for (const Program& program : kPrograms) {
    const auto refill = [] {
      uint32_t state = 1;
      for (size_t i = 0; i < kMemory; ++i) {
        state = state * 1103515245 + 12345;
        memory[i] = static_cast<uint8_t>(i >= 2048 ? (i & 0x3ff) % 255 + 1 : state >> 16);
      }
    };
    Ready ready;
    ready.bytes = read_program(program.name);
    const auto decoded = decode(std::span(ready.bytes));
    if (!decoded) {
      die(program.name, decoded.error().why);
    }
    auto interpreter = Interpreter::prepare(decoded.value());
    ready.counted = compile(decoded.value(), true);
    ready.uncounted = compile(decoded.value(), false);
    if (!interpreter || !ready.counted || !ready.uncounted) {
      die(program.name, "not prepared");
    }
    ready.interpreter = std::make_unique<Interpreter>(std::move(interpreter).value());
    const MemoryRange range{reinterpret_cast<uint64_t>(memory), kMemory, true};
    const uint64_t args[] = {range.begin, kMemory};
    const auto interpret = [&] {
      Hit hit{nullptr, INT64_MAX, kHitNormal, 0, 0};
      const auto value = ready.interpreter->run(args, std::span(&range, 1), &hit);
      return value ? value.value() : ~0ULL;
    };
    const auto run_code = [&](const CodeMapping& code) {
      Hit hit{nullptr, INT64_MAX, kHitNormal, 0, 0};
      return code.entry<Code>()(memory, &hit, kMemory);
    };
    refill();
    const uint64_t expected = program.native_o2(memory, kMemory);
    refill();
    if (interpret() != expected || run_code(*ready.counted) != expected ||
        run_code(*ready.uncounted) != expected ||
        program.native_march(memory, kMemory) != expected) {
      die(program.name, "engines disagree");
    }
    const uint64_t begin = now_ns();
    for (int i = 0; i < 1000; ++i) {
      sink = program.native_o2(memory, kMemory);
    }
    const double native_ns = static_cast<double>(now_ns() - begin) / 1000;
    const auto calls = static_cast<uint64_t>(20000.0 / (native_ns + 1) + 1);
    const std::string scenario = std::string("vm/") + program.name;
    const auto loop = [](auto body, uint64_t count) {
      return [body, count] {
        for (uint64_t i = 0; i < count; ++i) {
          sink = body();
        }
      };
    };
    const uint64_t few = calls / 20 + 1;
    const std::vector<Contender> contenders = {
        {scenario, "native_o2", loop([&] { return program.native_o2(memory, kMemory); }, calls),
         calls},
        {scenario, "native_march",
         loop([&] { return program.native_march(memory, kMemory); }, calls), calls},
        {scenario, "jit", loop([&] { return run_code(*ready.counted); }, calls), calls},
        {scenario, "jit_uncounted", loop([&] { return run_code(*ready.uncounted); }, calls), calls},
        {scenario, "interpreter", loop(interpret, few), few},
    };
    const std::vector<Figure> measured = measure(contenders, repetitions);
    for (const Figure& figure : measured) {
      if (measured[0].min >= 20) {
        ratios[figure.contender].push_back(figure.min / measured[0].min);
      }
      figures.push_back(figure);
    }
    const std::vector<Contender> compilers = {{std::string("compile/") + program.name, "jit",
                                               [&] {
                                                 for (int i = 0; i < 10; ++i) {
                                                   const auto again =
                                                       decode(std::span(ready.bytes));
                                                   const auto compiled =
                                                       compile_x64(again.value(), {});
                                                   sink = compiled.value().code.size();
                                                 }
                                               },
                                               10}};
    for (Figure figure : measure(compilers, repetitions)) {
      figure.unit = "us";
      figure.min /= 1000;
      figure.median /= 1000;
      figure.p99 /= 1000;
      compile_us.push_back(figure.median);
      figures.push_back(figure);
    }
  }
  for (const auto& [contender, values] : ratios) {
    double sum = 0;
    std::vector<double> sorted = values;
    std::sort(sorted.begin(), sorted.end());
    for (const double value : values) {
      sum += std::log(value);
    }
    const double geomean = std::exp(sum / static_cast<double>(values.size()));
    figures.push_back({"vm/geomean", contender, "ratio", geomean, quantile(sorted, 0.5),
                       quantile(sorted, 0.99), values.size()});
  }
  std::sort(compile_us.begin(), compile_us.end());
  figures.push_back({"compile/median", "jit", "us", compile_us.front(), quantile(compile_us, 0.5),
                     quantile(compile_us, 0.99), compile_us.size()});
  print_json(figures);
  return 0;
}

}  // namespace
}  // namespace bpftime::bench

int main(int argc, char** argv) {
  return bpftime::bench::run(argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 50);
}
