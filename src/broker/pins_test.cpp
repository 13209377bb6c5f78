#include "broker/pins.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>

namespace bpftime {
namespace {

struct Bench {
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create().value());
  std::string directory;
  Pins::Gone gone;
  Bench() {
    char name[] = "/tmp/bpftime-pins-XXXXXX";
    directory = std::string(::mkdtemp(name)) + "/pins";
  }
  ~Bench() { ::rmdir(directory.substr(0, directory.rfind('/')).c_str()); }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;
  Pins make() {
    return {loop.get(), directory, [this](Pins::Gone some) {
              gone.insert(gone.end(), some.begin(), some.end());
              loop->stop();
            }};
  }
};

int error_of(const auto& result) { return result ? 0 : result.error().code; }

TEST(Pins, NamesOfTheKernelsAndOfTheDirectoryAreTheSame) {
  Bench bench;
  Pins pins = bench.make();
  const auto map = std::make_shared<MapObject>();
  EXPECT_TRUE(pins.empty());
  EXPECT_EQ(error_of(pins.add("/sys/fs/bpf/x", map)), 0);
  EXPECT_EQ(map->pins, 1U);
  EXPECT_EQ(error_of(pins.add(bench.directory + "/x", map)), EEXIST);
  ASSERT_TRUE(pins.find(bench.directory + "/x"));
  EXPECT_EQ(*pins.find("/sys/fs/bpf/x"), map);
  EXPECT_EQ(*pins.find("/sys/fs/./bpf//y/../x"), map);
  pins.clear();
  EXPECT_EQ(map->pins, 0U);
  EXPECT_EQ(::access(bench.directory.c_str(), F_OK), -1);
}

TEST(Pins, RefusesWhatIsNoNameOfOurs) {
  Bench bench;
  Pins pins = bench.make();
  const auto map = std::make_shared<MapObject>();
  for (const char* path : {"/tmp/x", "x", "", "/sys/fs/bpf", "/sys/fs/bpf/", "/sys/fs/bpfx",
                           "/sys/fs/bpf/../x", "/sys/fs/bpf/a.b", "/sys/fs/bpf/x/../../y"}) {
    EXPECT_EQ(error_of(pins.add(path, map)), EPERM) << path;
  }
  EXPECT_EQ(error_of(pins.add("/sys/fs/bpf/none/x", map)), ENOENT);
  EXPECT_EQ(error_of(pins.add("/sys/fs/bpf/" + std::string(300, 'x'), map)), ENAMETOOLONG);
  EXPECT_EQ(error_of(pins.find("/sys/fs/bpf/x")), ENOENT);
  EXPECT_EQ(error_of(pins.find("/proc/self/exe")), EACCES);
}

TEST(Pins, WhoRemovesTheFileTakesThePinAway) {
  Bench bench;
  Pins pins = bench.make();
  const auto map = std::make_shared<MapObject>();
  ASSERT_TRUE(pins.add("/sys/fs/bpf/x", map));
  EXPECT_EQ(::unlink((bench.directory + "/x").c_str()), 0);
  bench.loop->run();  // until it is told
  ASSERT_EQ(bench.gone.size(), 1U);
  EXPECT_EQ(bench.gone[0], map);
  EXPECT_EQ(map->pins, 0U);
  EXPECT_TRUE(pins.empty());
}

TEST(Pins, AFileThatSomebodyElsePutInItsPlaceIsNone) {
  Bench bench;
  Pins pins = bench.make();
  const auto map = std::make_shared<MapObject>();
  ASSERT_TRUE(pins.add("/sys/fs/bpf/x", map));
  const std::string file = bench.directory + "/x";
  std::ofstream(file + "y").put('y');
  EXPECT_EQ(::rename((file + "y").c_str(), file.c_str()), 0);
  EXPECT_EQ(error_of(pins.find("/sys/fs/bpf/x")), EACCES);
  EXPECT_EQ(map->pins, 0U);
}

}  // namespace
}  // namespace bpftime
