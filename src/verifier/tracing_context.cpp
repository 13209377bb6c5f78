// The context of BTF-typed tracing programs: words, each an argument of the attach point.
#include <cerrno>

#include "spec/trust.hpp"
#include "verifier/engine.hpp"

namespace bpftime {
namespace {

constexpr std::string_view kRawPrefix = "btf_trace_";
constexpr int64_t kMostArguments = 12;
constexpr uint32_t kBufferBytes = static_cast<uint32_t>(kMostOffset);

// What an attach point looks like to a program.
struct AttachPoint {
  std::string_view name;
  BtfType proto;
  std::vector<BtfParameter> parameters;
};

// A raw tracepoint is a typedef of a pointer to its function, whose first argument is not shown.
Result<AttachPoint> find_attach_point(const Btf& btf, uint32_t id) {
  auto type = btf.type(id);
  AttachPoint point;
  bool is_raw = false;
  for (int i = 0; type && i < 8 && type->kind != BtfKind::kFuncProto; ++i) {
    point.name = i == 0 ? type->name : point.name;
    is_raw |= type->kind == BtfKind::kTypedef;
    if (type->target == 0) {
      break;
    }
    type = btf.type(type->target);
  }
  if (!type || type->kind != BtfKind::kFuncProto) {
    return make_error(EACCES, "the attach point has no prototype");
  }
  point.proto = *type;
  point.parameters = btf.parameters(*type);
  if (is_raw && !point.parameters.empty()) {
    point.parameters.erase(point.parameters.begin());
  }
  if (is_raw && point.name.starts_with(kRawPrefix)) {
    point.name.remove_prefix(kRawPrefix.size());
  }
  return point;
}

uint16_t flags_of(IterArgument argument) {
  switch (argument) {
    case IterArgument::kTrusted:
      return kTrusted;
    case IterArgument::kTrustedOrNull:
      return kTrusted | kOrNull;
    case IterArgument::kOrNull:
      return kOrNull;
    case IterArgument::kReadOnlyBytesOrNull:
      return kOrNull | kBuffer | kReadOnly;
    case IterArgument::kBytesOrNull:
      return kOrNull | kBuffer;
  }
  return kUntrusted;
}

}  // namespace

// What a pointer among the arguments is; `pointee`: 0 for void.
Reg Engine::tracing_argument(std::string_view attach_point, size_t index, uint32_t pointee) {
  const auto n = static_cast<uint32_t>(index);
  const uint32_t attach = program_.expected_attach_type;
  uint16_t flags = kTrusted;
  if (attach == BPF_TRACE_ITER) {
    flags = flags_of(iter_argument(attach_point, n));
  } else if (attach != BPF_TRACE_RAW_TP) {
    flags = 0;
  } else if (is_nullable_argument(attach_point, n)) {
    flags |= kOrNull;
  }
  Reg r;
  if ((flags & kBuffer) != 0) {
    r = Reg::pointer(RegKind::kMem, 0, flags);
    r.size = kBufferBytes;
  } else {
    r = reg_of_btf_pointer(pointee, true, flags);
  }
  if (r.or_null()) {
    r.id = new_id();
  }
  return r;
}

bool Engine::check_tracing_context(int64_t off, int size, Reg* out) {
  const Btf* btf = program_.kernel_btf;
  if (btf == nullptr) {
    return refuse(EACCES, "kernel BTF is missing");
  }
  const auto invalid = [&] {
    return refuse(EACCES, "invalid bpf_context access off=%lld size=%d",
                  static_cast<long long>(off), size);
  };
  if (off < 0 || off % 8 != 0 || off >= 8 * kMostArguments) {
    return invalid();
  }
  auto point = find_attach_point(*btf, program_.attach_btf_id);
  if (!point) {
    return refuse(EACCES, "%s", point.error().why);
  }
  const auto index = static_cast<size_t>(off / 8);
  verdict_.facts.context_words |= 1ULL << index;
  const bool is_return = program_.expected_attach_type == BPF_TRACE_FEXIT &&
                         index == point->parameters.size() && point->proto.target != 0;
  if (index >= point->parameters.size() && !is_return) {
    return refuse(EACCES, "the attach point does not have %zu-th argument", index + 1);
  }
  auto argument = btf->resolve(is_return ? point->proto.target : point->parameters[index].type);
  if (!argument) {
    return invalid();
  }
  *out = Reg::unknown();
  if (argument->kind == BtfKind::kPtr) {
    auto pointee =
        argument->target == 0 ? Result<BtfType>(BtfType{}) : btf->resolve(argument->target);
    // Only whole pointers; and none to a function.
    if (size != 8 || !pointee || pointee->kind == BtfKind::kFuncProto) {
      return invalid();
    }
    *out = tracing_argument(point->name, index, argument->target);
  }
  verdict_.reg = -1;
  return true;
}

}  // namespace bpftime
