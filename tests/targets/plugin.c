// A library that loader_of loads and unloads.
int plugin_entry(int n);
int plugin_entry(int n) {
  volatile int two = 2;
  return n * two;
}
