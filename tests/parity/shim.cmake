bpftime_parity(shim)
