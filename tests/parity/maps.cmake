bpftime_parity(maps)
