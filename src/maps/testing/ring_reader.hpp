// A reader of RINGBUF and perf buffers written from their documented layout alone (kernel v6.18
// Documentation/bpf/ringbuf.rst, perf_event_open(2)), over memory mapped as a loader maps it. Tests only.
#pragma once
#include <linux/bpf.h>
#include <linux/perf_event.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace bpftime::testing {

inline uint64_t load_u64(const void* at) {
  return __atomic_load_n(static_cast<const uint64_t*>(at), __ATOMIC_ACQUIRE);
}

class RingReader {
 public:
  // How a record that passes the end is read: behind the end, or, as some libraries do, after masking anew.
  enum class Wrap { kContiguous, kMaskAfterHead };
  RingReader(void* consumer, const void* producer, uint32_t bytes, Wrap wrap = Wrap::kContiguous)
      : consumer_(static_cast<uint64_t*>(consumer)),
        producer_(static_cast<const char*>(producer)),
        data_(producer_ + 4096),
        mask_(bytes - 1),
        wrap_(wrap) {}

  // Reads what is there; `each` gets every record that was not discarded. The number of records, discarded ones too.
  template <class F>
  uint32_t read(F&& each, uint32_t most = ~0U) {
    uint64_t at = __atomic_load_n(consumer_, __ATOMIC_ACQUIRE);
    uint32_t count = 0;
    while (count < most && at < load_u64(producer_)) {
      const uint32_t length = __atomic_load_n(
          reinterpret_cast<const uint32_t*>(data_ + (at & mask_)), __ATOMIC_ACQUIRE);
      if ((length & BPF_RINGBUF_BUSY_BIT) != 0) {
        break;
      }
      const uint32_t size = length & ~static_cast<uint32_t>(BPF_RINGBUF_DISCARD_BIT);
      const char* const sample =
          wrap_ == Wrap::kContiguous ? data_ + (at & mask_) + 8 : data_ + ((at + 8) & mask_);
      if ((length & BPF_RINGBUF_DISCARD_BIT) == 0) {
        each(sample, size);
      }
      at += (size + 8ULL + 7) & ~7ULL;
      __atomic_store_n(consumer_, at, __ATOMIC_RELEASE);
      count++;
    }
    return count;
  }

 private:
  uint64_t* consumer_;
  const char* producer_;
  const char* data_;
  uint64_t mask_;
  Wrap wrap_;
};

class PerfReader {
 public:
  explicit PerfReader(void* page) : page_(static_cast<perf_event_mmap_page*>(page)) {}
  // `sample` gets the raw bytes (with their padding), `lost` the number in a PERF_RECORD_LOST.
  template <class Sample, class Lost>
  uint32_t read(Sample&& sample, Lost&& lost) {
    const char* const data = reinterpret_cast<const char*>(page_) + page_->data_offset;
    const uint64_t mask = page_->data_size - 1;
    const uint64_t head = load_u64(&page_->data_head);
    uint64_t tail = page_->data_tail;
    uint32_t count = 0;
    while (tail < head) {
      std::vector<char> record(8);
      copy(&record, data, mask, tail);
      perf_event_header header;
      std::memcpy(&header, record.data(), sizeof(header));
      if (header.size < 8 || header.size % 8 != 0) {
        return ~0U;
      }
      record.resize(header.size);
      copy(&record, data, mask, tail);
      if (header.type == PERF_RECORD_SAMPLE) {
        uint32_t size = 0;
        std::memcpy(&size, record.data() + 8, 4);
        sample(record.data() + 12, size);
      } else if (header.type == PERF_RECORD_LOST) {
        uint64_t words[2];
        std::memcpy(words, record.data() + 8, sizeof(words));
        lost(words[0], words[1]);
      } else {
        return ~0U;
      }
      tail += header.size;
      __atomic_store_n(&page_->data_tail, tail, __ATOMIC_RELEASE);
      count++;
    }
    return count;
  }

 private:
  static void copy(std::vector<char>* to, const char* data, uint64_t mask, uint64_t at) {
    for (size_t i = 0; i < to->size(); i++) {
      (*to)[i] = data[(at + i) & mask];
    }
  }
  perf_event_mmap_page* page_;
};

}  // namespace bpftime::testing
