#include "spec/map_struct.hpp"

#include <linux/bpf.h>

namespace bpftime {
namespace {

struct MapStruct {
  uint32_t map_type;
  const char* name;
};
constexpr MapStruct kMapStructs[] = {
    {BPF_MAP_TYPE_HASH, "bpf_htab"},
    {BPF_MAP_TYPE_ARRAY, "bpf_array"},
    {BPF_MAP_TYPE_PROG_ARRAY, "bpf_array"},
    {BPF_MAP_TYPE_PERF_EVENT_ARRAY, "bpf_array"},
    {BPF_MAP_TYPE_PERCPU_HASH, "bpf_htab"},
    {BPF_MAP_TYPE_PERCPU_ARRAY, "bpf_array"},
    {BPF_MAP_TYPE_STACK_TRACE, "bpf_stack_map"},
    {BPF_MAP_TYPE_CGROUP_ARRAY, "bpf_array"},
    {BPF_MAP_TYPE_LRU_HASH, "bpf_htab"},
    {BPF_MAP_TYPE_LRU_PERCPU_HASH, "bpf_htab"},
    {BPF_MAP_TYPE_LPM_TRIE, "lpm_trie"},
    {BPF_MAP_TYPE_ARRAY_OF_MAPS, "bpf_array"},
    {BPF_MAP_TYPE_HASH_OF_MAPS, "bpf_htab"},
    {BPF_MAP_TYPE_DEVMAP, "bpf_dtab"},
    {BPF_MAP_TYPE_SOCKMAP, "bpf_stab"},
    {BPF_MAP_TYPE_CPUMAP, "bpf_cpu_map"},
    {BPF_MAP_TYPE_XSKMAP, "xsk_map"},
    {BPF_MAP_TYPE_SOCKHASH, "bpf_shtab"},
    {BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, "reuseport_array"},
    {BPF_MAP_TYPE_QUEUE, "bpf_queue_stack"},
    {BPF_MAP_TYPE_STACK, "bpf_queue_stack"},
    {BPF_MAP_TYPE_DEVMAP_HASH, "bpf_dtab"},
    {BPF_MAP_TYPE_RINGBUF, "bpf_ringbuf_map"},
    {BPF_MAP_TYPE_BLOOM_FILTER, "bpf_bloom_filter"},
    {BPF_MAP_TYPE_USER_RINGBUF, "bpf_ringbuf_map"},
};

}  // namespace

const char* map_struct(uint32_t map_type) {
  for (const MapStruct& row : kMapStructs) {
    if (row.map_type == map_type) {
      return row.name;
    }
  }
  return nullptr;
}

}  // namespace bpftime
