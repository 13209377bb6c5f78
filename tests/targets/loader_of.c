// Loads and unloads a library on command. argv[1] = library with plugin_entry(). Lines: "load", "call N", "unload",
// "quit". Answers "loaded", "called N sum S", "unloaded".
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char** argv) {
  char line[64];
  void* library = NULL;
  int (*entry)(int) = NULL;
  if (argc != 2) {
    return 2;
  }
  printf("ready %d\n", getpid());
  fflush(stdout);
  while (fgets(line, sizeof(line), stdin) != NULL) {
    int n = 0;
    if (strcmp(line, "load\n") == 0) {
      library = dlopen(argv[1], RTLD_NOW);
      entry = library != NULL ? (int (*)(int))dlsym(library, "plugin_entry") : NULL;
      printf(entry != NULL ? "loaded\n" : "failed\n");
    } else if (strcmp(line, "unload\n") == 0 && library != NULL) {
      dlclose(library);
      entry = NULL;
      printf("unloaded\n");
    } else if (sscanf(line, "call %d", &n) == 1 && entry != NULL) {
      int sum = 0;
      for (int i = 0; i < n; i++) {
        sum += entry(i);
      }
      printf("called %d sum %d\n", n, sum);
    } else if (strcmp(line, "quit\n") == 0) {
      break;
    }
    fflush(stdout);
  }
  return 0;
}
