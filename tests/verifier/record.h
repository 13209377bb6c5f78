// One record of recorder.c's file, as judge.cpp reads it. A program's instructions follow it.
#pragma once
#include <stdint.h>

enum { kRecordMap = 1, kRecordProgram = 2 };
struct record {
  uint32_t kind, type, flags;
  int32_t fd;  // map: what programs name it by
  uint32_t key_size, value_size, max_entries;
  uint32_t insn_count, expected_attach_type, attach_btf_id;
  char name[64];
};
