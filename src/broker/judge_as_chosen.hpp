// Who judges a program: our verifier, the running kernel's, or both (bpftime load --verifier). Home: broker; in a worker
// process: it makes maps and loads the program in the kernel for the time of the question.
#pragma once
#include "broker/judge.hpp"

namespace bpftime {

// With the kernel's word alone ours is asked all the same, for what it learns; its own word does not count then.
Judgement judge_as_chosen(const ProgramTask& task, uint32_t seconds);

}  // namespace bpftime
