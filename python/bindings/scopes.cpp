// Scopes of the library (no_grad, random numbers, precision) as Python's contexts. The library's
// scopes must end in reverse order on their own thread, and Python promises neither.
#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "core/autograd/variable.h"
#include "core/nn/init.h"
#include "core/nn/random.h"
#include "core/ops/precision.h"
#include "python/bindings/bindings.h"
#include "python/bindings/casts.h"
#include "python/bindings/guard.h"

namespace lockstep::python {
namespace {

struct Scope {
  virtual ~Scope() = default;
};

template <typename T>
struct ScopeOf final : Scope {
  template <typename... Args>
  explicit ScopeOf(const Args&... args) : scope(args...) {}
  T scope;
};

// The open scopes of a thread.
class Open {
 public:
  Open() = default;
  ~Open() {
    while (!scopes_.empty()) scopes_.pop_back();
  }
  Open(const Open&) = delete;
  Open& operator=(const Open&) = delete;

  uint64_t enter(std::unique_ptr<Scope> scope) {
    static std::atomic<uint64_t> last = 0;
    scopes_.emplace_back(++last, std::move(scope));
    return scopes_.back().first;
  }
  // Ends the scopes that were opened inside and never left, too.
  void leave(uint64_t id) {
    size_t at = scopes_.size();
    while (at > 0 && scopes_[at - 1].first != id) --at;
    check(at > 0, "[scope] this context was not entered on this thread, or has ended already");
    while (scopes_.size() >= at) scopes_.pop_back();
  }

 private:
  std::vector<std::pair<uint64_t, std::unique_ptr<Scope>>> scopes_;
};

Open& open() {
  static thread_local Open scopes;
  return scopes;
}

template <typename T, typename... Args>
uint64_t enter(const Args&... args) {
  check_not_forked();
  return open().enter(std::make_unique<ScopeOf<T>>(args...));
}

}  // namespace

void bind_scopes(py::module_& m) {
  m.def("enter_no_grad", &enter<NoGradGuard>);
  m.def("enter_enable_grad", &enter<EnableGradGuard>);
  m.def("enter_draws", &enter<nn::InitialDraws>);
  m.def("enter_precision", &enter<ops::PrecisionScope, DType>);
  m.def("enter_random", &enter<nn::RandomScope, uint64_t, uint32_t, uint32_t>);
  m.def("leave", [](uint64_t id) { open().leave(id); });
}

}  // namespace lockstep::python
