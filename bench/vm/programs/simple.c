#include "program.h"
u64 program(const u8* memory, u64 size) { return 1; }
