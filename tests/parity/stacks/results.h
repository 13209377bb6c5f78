// What program and tool share.
#pragma once

enum { kFrames = 12, kLoops = 10, kTexts = 12 };

struct results {
  __u64 runs, stack[kFrames], skipped[kFrames];
  long stack_bytes, skipped_bytes, bad_flags, kernel_bytes, kernel_id;
  long id, same_id, fast_id, bad_id_flags, skipped_id, deep_skip;
  __u64 task, task_again;
  long loops, stopped_loops, bad_loops, too_many_loops, loop_sum;
  long hash_met, hash_sum, array_met, array_sum, stopped_met, bad_each, percpu_met, percpu_sum;
  long text_length, cut_length, no_text_length;
  char text[32], cut[8];
  long number_result[kTexts], number[kTexts], unsigned_result[kTexts];
  unsigned long unsigned_number[kTexts];
  long compared[5];
  long ns_result, wrong_ns_result, wrong_size_result;
  __u32 ns_pid, ns_tgid;
};

struct question {
  __u64 pid_namespace_device, pid_namespace_inode;
  char* writable;
};
