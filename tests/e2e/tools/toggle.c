// toggle PID PATH OFFSET ROUNDS [r]: attaches a counting program at PATH+OFFSET of process PID and switches it on and
// off ROUNDS times. Prints "rounds N hits H". r: a return probe beside it.
#include <stdlib.h>

#include "raw_loader.h"

int main(int argc, char** argv) {
  if (argc < 5) {
    return 2;
  }
  int rounds = atoi(argv[4]);
  int map = make_map();
  int program = load_program(map, "toggle");
  int events[2] = {-1, -1};
  for (int i = 0; i < (argc > 5 ? 2 : 1); i++) {
    events[i] = attach(program, argv[2], strtoul(argv[3], NULL, 0), atoi(argv[1]), i);
    if (events[i] < 0) {
      fprintf(stderr, "toggle: %s\n", strerror(errno));
      return 1;
    }
  }
  for (int n = 0; n < rounds; n++) {
    for (int i = 0; i < 2; i++) {
      if (events[i] >= 0 && (ioctl(events[i], PERF_EVENT_IOC_DISABLE, 0) != 0 ||
                             ioctl(events[i], PERF_EVENT_IOC_ENABLE, 0) != 0)) {
        fprintf(stderr, "toggle: round %d: %s\n", n, strerror(errno));
        return 1;
      }
    }
  }
  printf("rounds %d hits %llu\n", rounds, read_map(map));
  return 0;
}
