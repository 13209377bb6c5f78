// A freestanding image as the agent is one: no needed library, relative relocations only, data, bss, read-only data.
#include <stdint.h>

static uint64_t big_bss[3000];
static const char text[] = "bpftime test agent";
static uint64_t counter = 41;

static uint64_t test_agent_add(uint64_t a, uint64_t b) {
  counter++;
  big_bss[2999] += a;
  return a + b + (counter << 32);
}

struct Descriptor {
  uint64_t magic;
  uint64_t (*add)(uint64_t, uint64_t);
  const char* text;
  uint64_t* counter;
  uint64_t* bss_end;
};
__attribute__((visibility("default"))) struct Descriptor test_agent_descriptor = {
    0x1122334455667788, test_agent_add, text, &counter, &big_bss[2999]};
