#include "cli/loaded_map.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace bpftime::cli {
namespace {

bpf_attr empty_attr() {
  bpf_attr attr;
  std::memset(&attr, 0, sizeof(attr));
  return attr;
}

Request bpf_request(uint32_t command, const bpf_attr& attr) {
  Request request;
  request.kind = MessageKind::kBpf;
  request.command = command;
  const auto bytes = std::as_bytes(std::span(&attr, 1));
  request.attr.assign(bytes.begin(), bytes.end());
  request.attr.resize(kAttrBytes);
  return request;
}

Result<ObjectRef> ref_of(int fd) {
  struct stat st{};
  if (::fstat(fd, &st) != 0) {
    return make_error(errno, "fstat of an object");
  }
  return ObjectRef{fd, 0, st.st_dev, st.st_ino};
}

Result<UniqueFd> open_id(Channel* broker, uint32_t command, uint32_t id) {
  bpf_attr attr = empty_attr();
  attr.map_id = id;
  Reply reply = TRY(call_broker(broker, bpf_request(command, attr)));
  return std::move(reply.fd);
}

// OBJ_GET_INFO_BY_FD: *info goes there and comes back; the result is what its pointers name, one piece after the other.
template <class Info>
Result<std::vector<std::byte>> get_info(Channel* broker, int fd, Info* info) {
  bpf_attr attr = empty_attr();
  attr.info.bpf_fd = static_cast<uint32_t>(fd);
  attr.info.info_len = sizeof(Info);
  Request request = bpf_request(BPF_OBJ_GET_INFO_BY_FD, attr);
  request.refs.push_back(TRY(ref_of(fd)));
  RequestPayload payload;
  payload.tag = offsetof(bpf_attr, info.info);
  const auto given = std::as_bytes(std::span(info, 1));
  payload.bytes.assign(given.begin(), given.end());
  payload.size_bytes = payload.bytes.size();
  request.payloads.push_back(std::move(payload));
  const Reply reply = TRY(call_broker(broker, std::move(request)));
  InfoOutput head{};
  const size_t pieces_at = sizeof(head) + ((sizeof(Info) + 7) & ~size_t{7});
  if (reply.output.size() < pieces_at) {
    return make_error(EPROTO, "an answer that is cut");
  }
  std::memcpy(&head, reply.output.data(), sizeof(head));
  std::memcpy(info, reply.output.data() + sizeof(head), sizeof(Info));
  std::vector<std::byte> pieces;
  size_t at = pieces_at;
  for (uint32_t i = 0; i < head.pieces; i++) {
    InfoPiece piece{};
    if (reply.output.size() - at < sizeof(piece)) {
      return make_error(EPROTO, "an answer that is cut");
    }
    std::memcpy(&piece, reply.output.data() + at, sizeof(piece));
    at += sizeof(piece);
    if (piece.size_bytes > reply.output.size() - at) {
      return make_error(EPROTO, "an answer that is cut");
    }
    const auto* begin = reply.output.data() + at;
    pieces.insert(pieces.end(), begin, begin + piece.size_bytes);
    at += std::min<size_t>((piece.size_bytes + 7) & ~uint64_t{7}, reply.output.size() - at);
  }
  return pieces;
}

Result<Btf> types_of(Channel* broker, uint32_t btf_id) {
  const UniqueFd fd = TRY(open_id(broker, BPF_BTF_GET_FD_BY_ID, btf_id));
  bpf_btf_info info{};
  info.btf = 1;  // somewhere: the bytes come beside the info
  info.btf_size = kMaxBtfBytes;
  const auto bytes = TRY(get_info(broker, fd.get(), &info));
  return Btf::parse(bytes);
}

bool is_number(const std::string& text) {
  return !text.empty() && text.size() < 10 &&
         text.find_first_not_of("0123456789") == std::string::npos;
}

Result<UniqueFd> open_named(Channel* broker, const std::string& name, bpf_map_info* info) {
  bpf_attr attr = empty_attr();
  for (;;) {
    auto next = call_broker(broker, bpf_request(BPF_MAP_GET_NEXT_ID, attr));
    if (!next || next->output.size() < sizeof(attr.start_id)) {
      return make_error(ENOENT, "no map of that name");
    }
    std::memcpy(&attr.start_id, next->output.data(), sizeof(attr.start_id));
    auto fd = open_id(broker, BPF_MAP_GET_FD_BY_ID, attr.start_id);
    if (!fd) {
      continue;  // gone meanwhile
    }
    TRY(get_info(broker, fd->get(), info));
    if (name == std::string(info->name, ::strnlen(info->name, sizeof(info->name)))) {
      return fd;
    }
  }
}

}  // namespace

Result<LoadedMap> LoadedMap::find(Channel* broker, const std::string& id_or_name) {
  LoadedMap map;
  UniqueFd fd;
  if (is_number(id_or_name)) {
    fd = TRY(open_id(broker, BPF_MAP_GET_FD_BY_ID, static_cast<uint32_t>(std::stoul(id_or_name))));
    TRY(get_info(broker, fd.get(), &map.info_));
  } else {
    fd = TRY(open_named(broker, id_or_name, &map.info_));
  }
  if (map.info_.btf_id != 0) {
    auto types = types_of(broker, map.info_.btf_id);
    if (types) {
      map.types_ = std::move(types).value();
    }
  }
  Request request;
  request.kind = MessageKind::kMapRegion;
  request.refs.push_back(TRY(ref_of(fd.get())));
  const Reply reply = TRY(call_broker(broker, std::move(request)));
  MapRegionReply shape{};
  if (!reply.fd || reply.output.size() < sizeof(shape)) {
    return make_error(EPROTO, "no region in the answer");
  }
  std::memcpy(&shape, reply.output.data(), sizeof(shape));
  // A sealed file can only be mapped shared through a description that cannot write (before Linux 6.7).
  const std::string path = "/proc/self/fd/" + std::to_string(reply.fd.get());
  const UniqueFd reader(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  map.base_ = ::mmap(nullptr, shape.region_bytes, PROT_READ, MAP_SHARED, reader.get(), 0);
  if (map.base_ == MAP_FAILED) {
    map.base_ = nullptr;
    return make_error(errno, "cannot map the region");
  }
  map.bytes_ = shape.region_bytes;
  const MapSpec spec{shape.map_type,    shape.map_flags, shape.key_size, shape.value_size,
                     shape.max_entries, shape.cpu_count, shape.map_extra};
  map.view_ = TRY(open_region(static_cast<std::byte*>(map.base_), map.bytes_, spec));
  return map;
}

LoadedMap::LoadedMap(LoadedMap&& other) noexcept
    : info_(other.info_),
      view_(other.view_),
      types_(std::move(other.types_)),
      base_(std::exchange(other.base_, nullptr)),
      bytes_(other.bytes_) {}

LoadedMap::~LoadedMap() {
  if (base_ != nullptr) {
    ::munmap(base_, bytes_);
  }
}

size_t LoadedMap::value_bytes() const {
  const size_t padded = (size_t{view_.spec.value_size} + 7) & ~size_t{7};
  return view_.spec.cpu_count > 1 ? padded * view_.spec.cpu_count : view_.spec.value_size;
}

}  // namespace bpftime::cli
