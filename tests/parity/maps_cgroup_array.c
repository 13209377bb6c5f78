// CGROUP_ARRAY without a cgroup in it, which is all that most tools want of theirs.
#include "shim_parity.h"

int main(void) {
  IS_ERROR("value_of_8", EINVAL, map_create(BPF_MAP_TYPE_CGROUP_ARRAY, 4, 8, 1, 0, NULL));
  IS_ERROR("key_of_8", EINVAL, map_create(BPF_MAP_TYPE_CGROUP_ARRAY, 8, 4, 1, 0, NULL));
  IS_ERROR("no_entries", EINVAL, map_create(BPF_MAP_TYPE_CGROUP_ARRAY, 4, 4, 0, 0, NULL));
  IS_ERROR("mmapable", EINVAL,
           map_create(BPF_MAP_TYPE_CGROUP_ARRAY, 4, 4, 1, BPF_F_MMAPABLE, NULL));
  IS_ERROR("rdonly_prog", EINVAL,
           map_create(BPF_MAP_TYPE_CGROUP_ARRAY, 4, 4, 1, BPF_F_RDONLY_PROG, NULL));
  const int map =
      (int)IS_OK("create", map_create(BPF_MAP_TYPE_CGROUP_ARRAY, 4, 4, 2, 0, "cgroups"));
  uint32_t key = 0;
  uint32_t value = 0;  // stdin: no cgroup
  IS_ERROR("lookup", 524, map_lookup(map, &key, &value));
  IS_ERROR("update_of_a_file", EBADF, map_update(map, &key, &value));
  IS_ERROR("update_noexist", EINVAL,
           map_element(BPF_MAP_UPDATE_ELEM, map, &key, &value, BPF_NOEXIST));
  IS_ERROR("delete_empty", ENOENT, map_element(BPF_MAP_DELETE_ELEM, map, &key, NULL, 0));
  uint32_t next = 9;
  IS_OK("first_key", map_element(BPF_MAP_GET_NEXT_KEY, map, NULL, &next, 0));
  IS_TRUE("first_key_is_0", next == 0);
  key = 2;
  IS_ERROR("update_behind", E2BIG, map_update(map, &key, &value));
  IS_ERROR("delete_behind", E2BIG, map_element(BPF_MAP_DELETE_ELEM, map, &key, NULL, 0));

  // A program that asks: nothing is in the slot.
  const struct bpf_insn insns[] = {LOAD_MAP(1, map), MOV_IMM(2, 0),
                                   CALL(BPF_FUNC_current_task_under_cgroup), MOV_IMM(0, 0), EXIT()};
  IS_OK("program", PROG_LOAD(BPF_PROG_TYPE_KPROBE, insns));
  return done();
}
