// A library that loader_of loads and unloads.
int plugin_entry(int n);
int plugin_entry(int n) {
  __asm__ volatile("" : "+r"(n));
  return n * 2;
}
