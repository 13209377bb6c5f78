// Ring buffers and perf buffers in a loader: mapping them, and sleeping until there is something to read
// (docs/decisions/0002-waking-readers.md). Home: shim *, any thread.
//
// What can be waited for ("waitable": descriptors of ring buffers and of output events) is a bit a number, and what each
// epoll set holds a table of fixed size, both in ordinary memory: a forked child finds them as they were, and asks the
// broker anew for what its numbers stand for.
#pragma once
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>

#include <cstdint>

#include "bpfcall/shim_objects.hpp"

namespace bpftime::shim {

void note_waitable(int fd);
bool is_any_waitable();  // else no wait is any work of ours
bool is_waitable(int fd);
// A number stands for something else now, or for nothing.
void forget_waitables(uint32_t first, uint32_t last);

// ---- mmap(2) of an output event; `result` is the address or -errno. False: fd is no such event.
bool mmap_event(int fd, uint64_t address, uint64_t length, uint64_t protection, uint64_t flags,
                uint64_t offset, long* result);
void forget_event_mappings(uint64_t begin, uint64_t bytes);
// MAP_UPDATE_ELEM and MAP_DELETE_ELEM of a PERF_EVENT_ARRAY, whose values are descriptors.
long slot_command(const MapUse& map, const MapCall& call);

// ---- Epoll sets
void note_epoll(int fd);
void note_epoll_change(int epoll, int operation, int fd, const epoll_event* event);

// ---- Waits. Each asks `next` with what it was asked itself, after having seen to it that the kernel will notice what
// happens in our buffers, or answers by itself where only buffers of one map are waited for. -1 and errno. The mask
// that `next` is given is to be in force while it sleeps; null: as it is.
int wait_epoll(int epoll, epoll_event* events, int most, int timeout_ms,
               int (*next)(int, epoll_event*, int, int, const sigset_t*));
int wait_poll(pollfd* fds, nfds_t count, int timeout_ms,
              int (*next)(pollfd*, nfds_t, int, const sigset_t*));
// For the other waits: only the first half. It may take a while: signals are to be held.
void before_wait(int epoll);
void before_wait(const pollfd* fds, nfds_t count);
void before_wait(int count, const fd_set* fds);

}  // namespace bpftime::shim
