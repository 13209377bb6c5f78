// Any bytes as an ELF image: every reader, and every answer asked back.
#include <cstddef>
#include <cstdint>

#include "elf/elf.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto image = bpftime::ElfImage::parse(std::as_bytes(std::span(data, size)));
  if (!image) {
    return 0;
  }
  (void)image->relative_relocations();
  size_t sum = image->interpreter().size() + image->build_id().size();
  for (const auto& symbol : image->symbols()) {
    sum += symbol.name.size();
    (void)image->function_at(symbol.address);
    (void)image->function_at(symbol.address + symbol.size / 2);
    (void)image->bytes_at(symbol.address, symbol.size);
    if (auto offset = image->offset_of(symbol.address)) {
      (void)image->address_of(*offset);
    }
    if (sum > (1U << 20)) {
      break;
    }
  }
  (void)image->find_symbol("main");
  return image->high_address() < image->low_address() ? __builtin_trap(), 0 : 0;
}
