// every: puts an entry and a return probe on every function symbol of a library, for the sweep.
//   every -p PID [-e] PATH     prints "placed N of M", then one line "refused NAME WHY" a refusal, then "ready";
// then answers each line of standard input with "hits N returns N". At end of input it lets all go.
// Raw calls, as a loader that knows nothing of us makes them; -e: no return probes.
#include <elf.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "raw_loader.h"

static int by_offset(const void* a, const void* b) {
  const Elf64_Sym* x = *(Elf64_Sym* const*)a;
  const Elf64_Sym* y = *(Elf64_Sym* const*)b;
  return x->st_value < y->st_value ? -1 : x->st_value > y->st_value;
}

int main(int argc, char** argv) {
  int pid = -1, returns = 1, option;
  while ((option = getopt(argc, argv, "p:e")) != -1) {
    if (option == 'p') {
      pid = atoi(optarg);
    } else if (option == 'e') {
      returns = 0;
    } else {
      return 2;
    }
  }
  if (argc - optind != 1) {
    return 2;
  }
  char path[4096];
  if (realpath(argv[optind], path) == NULL) {
    return 1;
  }
  struct rlimit many = {65536, 65536};
  getrlimit(RLIMIT_NOFILE, &many);
  many.rlim_cur = many.rlim_max;
  setrlimit(RLIMIT_NOFILE, &many);
  int file = open(path, O_RDONLY);
  struct stat st;
  if (file < 0 || fstat(file, &st) != 0) {
    return 1;
  }
  const char* image = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, file, 0);
  if (image == MAP_FAILED) {
    return 1;
  }
  const Elf64_Ehdr* head = (const void*)image;
  const Elf64_Shdr* sections = (const void*)(image + head->e_shoff);
  const Elf64_Phdr* segments = (const void*)(image + head->e_phoff);
  Elf64_Sym** functions = calloc(65536, sizeof(*functions));
  const char** names = calloc(65536, sizeof(*names));
  size_t count = 0;
  for (int i = 0; i < head->e_shnum; i++) {
    if (sections[i].sh_type != SHT_DYNSYM) {
      continue;
    }
    Elf64_Sym* symbols = (Elf64_Sym*)(image + sections[i].sh_offset);
    for (size_t n = 0; n < sections[i].sh_size / sizeof(Elf64_Sym) && count < 65536; n++) {
      int type = ELF64_ST_TYPE(symbols[n].st_info);
      if (symbols[n].st_shndx != SHN_UNDEF && symbols[n].st_value != 0 &&
          (type == STT_FUNC || type == STT_GNU_IFUNC)) {
        functions[count++] = &symbols[n];
      }
    }
    const char* strings = image + sections[sections[i].sh_link].sh_offset;
    qsort(functions, count, sizeof(*functions), by_offset);
    size_t kept = 0;
    for (size_t n = 0; n < count; n++) {
      if (kept == 0 || functions[n]->st_value != functions[kept - 1]->st_value) {
        names[kept] = strings + functions[n]->st_name;
        functions[kept++] = functions[n];
      }
    }
    count = kept;
  }
  int entry_map = make_map(), return_map = make_map();
  int on_entry = load_program(entry_map, "every_entry"),
      on_return = load_program(return_map, "every_return");
  if (entry_map < 0 || return_map < 0 || on_entry < 0 || on_return < 0) {
    fprintf(stderr, "every: %s\n", strerror(errno));
    return 1;
  }
  size_t placed = 0, wanted = 0;
  for (size_t n = 0; n < count; n++) {
    unsigned long offset = functions[n]->st_value;
    for (int i = 0; i < head->e_phnum; i++) {
      if (segments[i].p_type == PT_LOAD && offset >= segments[i].p_vaddr &&
          offset < segments[i].p_vaddr + segments[i].p_filesz) {
        offset = offset - segments[i].p_vaddr + segments[i].p_offset;
        break;
      }
    }
    for (int is_return = 0; is_return <= returns; is_return++) {
      wanted++;
      if (attach(is_return ? on_return : on_entry, path, offset, pid, is_return) >= 0) {
        placed++;
      } else {
        printf("refused %s %s: %s\n", is_return ? "return" : "entry", names[n], strerror(errno));
      }
    }
  }
  printf("placed %zu of %zu\nready\n", placed, wanted);
  fflush(stdout);
  char line[16];
  while (fgets(line, sizeof(line), stdin) != NULL) {
    printf("hits %llu returns %llu\n", read_map(entry_map), read_map(return_map));
    fflush(stdout);
  }
  return 0;
}
