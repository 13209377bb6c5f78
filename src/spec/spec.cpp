#include "spec/spec.hpp"
namespace bpftime { extern const char kSpecPlaceholder; const char kSpecPlaceholder = 0; }
