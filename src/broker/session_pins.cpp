// OBJ_PIN, OBJ_GET. Kernel v6.18 kernel/bpf/syscall.c: bpf_obj_pin, bpf_obj_get; kernel/bpf/inode.c: bpf_obj_pin_user,
// bpf_obj_get_user.
#include <linux/bpf.h>

#include <cerrno>

#include "broker/bpf_call.hpp"
#include "spec/newer.hpp"

namespace bpftime {
namespace {

constexpr uint32_t kAccess = BPF_F_RDONLY | BPF_F_WRONLY;

// Relative paths have been completed by who asks for their process (bpfcall/answer.cpp).
bool is_path_right(const bpf_attr& attr) {
  int32_t path_fd = 0;
  std::memcpy(&path_fd, reinterpret_cast<const std::byte*>(&attr) + kPathFdAt, sizeof(path_fd));
  return (attr.file_flags & kPathFd) != 0 || path_fd == 0;
}

Result<std::string> path_of(const Request& request, const bpf_attr& attr) {
  const RequestPayload* path = request.payload(tag_of(attr, attr.pathname));
  if (path == nullptr) {
    return make_error(EFAULT, "no path");
  }
  if (path->bytes.empty()) {
    return make_error(ENOENT, "an empty path");
  }
  return std::string(reinterpret_cast<const char*>(path->bytes.data()), path->bytes.size());
}

}  // namespace

Result<Reply> Session::obj_pin(const BpfCall& call) {
  const bpf_attr& attr = call.attr;
  if ((attr.file_flags & ~kPathFd) != 0 || !is_path_right(attr)) {
    return make_error(EINVAL, "flags that pins do not have");
  }
  const ObjectRef* ref = call.request.ref(static_cast<int>(attr.bpf_fd));
  const auto object =
      ref == nullptr || ref->inode == 0 ? nullptr : objects_.find(ref->device, ref->inode);
  if (object == nullptr || (object->kind != ObjectKind::kMap && object->kind != ObjectKind::kProg &&
                            object->kind != ObjectKind::kLink)) {
    return make_error(EINVAL, "only maps, programs and links are pinned");
  }
  const std::string path = TRY(path_of(call.request, attr));
  TRY(pins_.add(path, object));
  return Reply{};
}

Result<Reply> Session::obj_get(const BpfCall& call) {
  const bpf_attr& attr = call.attr;
  const uint32_t access = attr.file_flags & ~kPathFd;
  if (attr.bpf_fd != 0 || (access & ~kAccess) != 0 || access == kAccess || !is_path_right(attr)) {
    return make_error(EINVAL, "flags that OBJ_GET does not have");
  }
  const std::string path = TRY(path_of(call.request, attr));
  const auto object = TRY(pins_.find(path));
  if (access != 0) {
    return make_error(EINVAL, "access to a pin is not narrowed");
  }
  return give(call.caller, object);
}

}  // namespace bpftime
