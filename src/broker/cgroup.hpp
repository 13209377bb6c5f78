// The id of a process's cgroup. Home: broker.
#pragma once
#include <sys/types.h>

#include <cstdint>

namespace bpftime {

// As bpf_get_current_cgroup_id() of a program in that process gives it: of the unified hierarchy. 0: cannot be had.
uint64_t cgroup_id_of(pid_t pid);

}  // namespace bpftime
