// What program and tool share.
#pragma once

struct addresses {
  const char *text, *empty, *nowhere, *page_end, *no_nul_end, *no_access;
};

struct results {
  __u64 runs, pid_tgid, uid_gid, ktime, boot, func_ip, cookie, rodata, data, returned,
      return_func_ip, return_cookie;
  __u64 magic;
  char name[16];
  long first_read, comm_result, short_comm_result;
  char comm[16], short_comm[4];
  __u32 random[3], cpu;
  long read[21];
  char bytes[21][16];
  long map[24];
  long printk[4];
};
