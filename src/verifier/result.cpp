// What helpers give back.
#include <algorithm>
#include <cerrno>

#include "verifier/engine.hpp"

namespace bpftime {
namespace {

constexpr int64_t kMostErrno = 4095;
constexpr uint64_t kMostProcessors = 8192;

}  // namespace

// A value of a map, or what a map of sockets holds.
bool Engine::set_map_result(const Prototype& proto, const CallArgs& args) {
  const auto index = static_cast<uint32_t>(args.map);
  const VerifierMap& m = map(index);
  const bool may_be_null = proto.gives == Gives::kMapValueOrNull;
  const bool is_nested =
      m.map_type == BPF_MAP_TYPE_ARRAY_OF_MAPS || m.map_type == BPF_MAP_TYPE_HASH_OF_MAPS;
  if (is_nested && m.inner == nullptr) {
    return refuse(EINVAL, "the inner map of a map is not known");
  }
  Reg& r = reg(0);
  if (m.map_type == BPF_MAP_TYPE_SOCKMAP || m.map_type == BPF_MAP_TYPE_SOCKHASH) {
    r = Reg::pointer(RegKind::kSocket, static_cast<uint32_t>(SocketKind::kSock), kOrNull);
    r.ref = r.id = acquire(RefKind::kPointer, proto.id);
    return true;
  }
  if (m.map_type == BPF_MAP_TYPE_XSKMAP) {
    r = Reg::pointer(RegKind::kSocket, static_cast<uint32_t>(SocketKind::kXdpSock), kOrNull);
    r.id = new_id();
    return true;
  }
  r = Reg::pointer(RegKind::kMapValue, index, may_be_null ? kOrNull : 0);
  if (may_be_null) {
    r.id = new_id();
  }
  if (args.map_uid != 0) {
    r.flags |= kMapUid;
  }
  return true;
}

Reg Engine::socket_result(const Prototype& proto, const CallArgs& args) {
  const SocketKind kind = proto.gives == Gives::kSocketOrNull         ? SocketKind::kSock
                          : proto.gives == Gives::kSocketCommonOrNull ? SocketKind::kSockCommon
                                                                      : SocketKind::kTcpSock;
  Reg r = Reg::pointer(RegKind::kSocket, static_cast<uint32_t>(kind), kOrNull);
  if ((proto.effects & kAcquires) != 0) {
    r.ref = r.id = acquire(RefKind::kPointer, proto.id);
  } else {
    r.id = new_id();
    r.ref = (proto.effects & kSameSocket) != 0 ? args.ref : 0;
  }
  return r;
}

Reg Engine::struct_result(const Prototype& proto, const CallArgs& args) {
  const auto type = program_.kernel_btf != nullptr
                        ? program_.kernel_btf->find(proto.kernel_struct, BtfKind::kStruct)
                        : Result<BtfType>(make_error(ENOENT, ""));
  if (!type) {
    return Reg::unknown();
  }
  Reg r = Reg::pointer(RegKind::kBtf, type->id, kKernelBtf);
  r.flags |= proto.id == BPF_FUNC_get_current_task_btf ? kTrusted : 0;
  if (proto.gives == Gives::kKernelStructOrNull) {
    r.flags |= kOrNull;
    r.id = new_id();
  }
  r.ref = (proto.effects & kSameSocket) != 0 ? args.ref : 0;
  return r;
}

// What stood in the kptr before.
Reg Engine::kptr_result(const Prototype& proto, const CallArgs& args) {
  Reg r = Reg::pointer(RegKind::kBtf, args.field->pointee, kOrNull | kTrusted);
  auto wanted = args.field_types->resolve(args.field->pointee);
  if (!is_kptr_of_kernel(*args.field, *args.field_types)) {
    r.flags = is_own_types(args.field_types) ? flags_of_object_kptr(*args.field, true)
                                             : static_cast<uint16_t>(kOrNull | kUntrusted);
  } else if (wanted) {
    auto kernel = program_.kernel_btf->find(wanted->name, BtfKind::kStruct);
    r.object = kernel ? kernel->id : 0;
    r.flags |= kKernelBtf;
  }
  r.ref = r.id = acquire(RefKind::kPointer, proto.id);
  return r;
}

bool Engine::set_return(const Prototype& proto, const CallArgs& args) {
  Reg r;
  switch (proto.gives) {
    case Gives::kNothing:
      // The kernel lets nothing be read; a helper of ours leaves a number of no meaning there.
      break;
    case Gives::kNumber:
      r = Reg::unknown();
      if ((proto.effects & kAtMostSize) != 0) {
        r.num = Scalar::between_signed(-kMostErrno, std::max<int64_t>(args.size_max, 0));
      } else if (proto.id == 8) {
        r.num = Scalar::between(0, kMostProcessors - 1);
      }
      break;
    case Gives::kMapValueOrNull:
    case Gives::kMapValue:
      return set_map_result(proto, args);
    case Gives::kMemoryOrNull:
      r = Reg::pointer(RegKind::kMem, 0, kOrNull | kRingbufRecord);
      r.size = static_cast<uint32_t>(args.alloc_size);
      r.ref = r.id = acquire(RefKind::kPointer, proto.id);
      break;
    case Gives::kSliceOrNull:
      r = Reg::pointer(RegKind::kMem, 0, kOrNull | kSlice);
      if (args.dynptr_read_only) {
        r.flags |= kReadOnly;
      }
      r.size = static_cast<uint32_t>(args.alloc_size);
      r.owner = args.dynptr.id;
      r.ref = args.dynptr.ref;
      r.id = new_id();
      break;
    case Gives::kSocketOrNull:
    case Gives::kSocketCommonOrNull:
    case Gives::kTcpSocketOrNull:
      r = socket_result(proto, args);
      break;
    case Gives::kKernelStruct:
    case Gives::kKernelStructOrNull:
      r = struct_result(proto, args);
      break;
    case Gives::kPerCpu:
    case Gives::kPerCpuOrNull: {
      const Reg& var = args.dynptr;
      r = var.kind == RegKind::kBtf || var.kind == RegKind::kMem ? var : Reg::unknown();
      r.flags &= static_cast<uint16_t>(~(kTrusted | kPerCpu));
      if (r.kind == RegKind::kBtf && (r.flags & kKernelBtf) == 0) {
        r.flags |= kAllocated;  // this processor's copy
      }
      if (proto.gives == Gives::kPerCpuOrNull && r.is_pointer()) {
        r.flags |= kOrNull;
        r.id = new_id();
      }
      break;
    }
    case Gives::kKptrOrNull:
      if (args.field != nullptr) {
        r = kptr_result(proto, args);
      }
      break;
  }
  reg(0) = r;
  return true;
}

}  // namespace bpftime
