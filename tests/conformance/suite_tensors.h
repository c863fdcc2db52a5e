// Part of process_group_suite.h: whose the tensors of a call are once it has failed on a rank.
#pragma once

namespace lockstep::test {

// One call on a rank, with what it must give where it ends well.
struct TensorCall {
  std::string name;
  std::function<Work(ProcessGroup&, const Tensor& a, const Tensor& b)> call;
  // Slices of `a` (ones at first) and of `b` (zeros at first), for a group of `size` ranks.
  std::function<int64_t(int size)> a_slices, b_slices;
  bool result_in_a = false;
  std::function<float(int size)> expected;
  bool result_at_1_only = false;
};

inline std::vector<TensorCall> tensor_calls() {
  using Group = ProcessGroup;
  const auto one = [](int) { return int64_t{1}; };
  const auto all = [](int size) { return int64_t{size}; };
  const auto ones = [](int) { return 1.0f; };
  const auto sum = [](int size) { return static_cast<float>(size); };
  const auto message = [](Group& g, const Tensor& a, const Tensor& b) {
    return g.rank() == 0 ? g.send(a, 1) : g.recv(b, 0);
  };
  return {
      {"all_reduce", [](Group& g, const Tensor& a, const Tensor&) { return g.all_reduce(a); }, one,
       one, true, sum},
      {"broadcast", [](Group& g, const Tensor& a, const Tensor&) { return g.broadcast(a, 0); }, one,
       one, true, ones},
      {"reduce", [](Group& g, const Tensor& a, const Tensor&) { return g.reduce(a, 1); }, one, one,
       true, sum, true},
      {"reduce_scatter",
       [](Group& g, const Tensor& a, const Tensor& b) { return g.reduce_scatter(b, a); }, all, one,
       false, sum},
      {"all_gather", [](Group& g, const Tensor& a, const Tensor& b) { return g.all_gather(b, a); },
       one, all, false, ones},
      {"gather", [](Group& g, const Tensor& a, const Tensor& b) { return g.gather(b, a, 1); }, one,
       all, false, ones, true},
      {"scatter", [](Group& g, const Tensor& a, const Tensor& b) { return g.scatter(b, a, 0); },
       all, one, false, ones},
      {"all_to_all", [](Group& g, const Tensor& a, const Tensor& b) { return g.all_to_all(b, a); },
       all, all, false, ones},
      {"message", message, one, one, false, ones, true},
  };
}

// A call with its tensors, on one rank.
class TensorsOfACall {
 public:
  // `shared`: the tensors lie in memory that the group allocates.
  TensorsOfACall(const TensorCall& what, ProcessGroup& group, bool shared)
      : what_(what), group_(group) {
    // In shm beyond what goes through slots, where it can be reached in place.
    constexpr int64_t n = 300'000;
    const auto memory = [&](int64_t slices) {
      return shared ? group.allocate({slices * n}, DType::f32) : zeros({slices * n});
    };
    a_ = memory(what.a_slices(group.size()));
    b_ = memory(what.b_slices(group.size()));
    a_.fill_(1);
  }

  Work start() const { return what_.call(group_, a_, b_); }
  bool takes_part() const { return group_.rank() < 2 || what_.name != "message"; }
  const Tensor& result() const { return what_.result_in_a ? a_ : b_; }
  // Whether the result is right, where this rank gets one.
  bool is_right() const {
    if (what_.result_at_1_only && group_.rank() != 1) return true;
    return is_all(result(), what_.expected(group_.size()));
  }
  // Their owner uses them for something else.
  void use() const {
    a_.fill_(-7);
    b_.fill_(-7);
  }
  bool are_as_used() const { return is_all(a_, -7) && is_all(b_, -7); }

 private:
  static bool is_all(const Tensor& t, float value) {
    return same_bits(t, std::vector<float>(static_cast<size_t>(t.numel()), value));
  }

  const TensorCall& what_;
  ProcessGroup& group_;
  Tensor a_, b_;
};

inline std::string name_of(const TensorCall& call, bool shared) {
  return call.name + (shared ? " in allocate()d memory" : "");
}

// Whoever gives up has its tensors back: the others come later, and neither read nor write them.
TEST_P(ProcessGroupSuite, NobodyTouchesTheTensorsOfACallThatWasGivenUp) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  const std::vector<TensorCall> calls = tensor_calls();
  run_with(
      {.timeout = std::chrono::seconds(100)}, [&](ProcessGroup& control, const MakeGroup& make) {
        for (const TensorCall& call : calls) {
          for (const bool shared : {false, true}) {
            const std::string name = name_of(call, shared);
            const auto g = make({.name = name, .timeout = std::chrono::seconds(90)});
            const TensorsOfACall tensors(call, *g, shared);
            if (g->rank() == 0) {
              const Work work = tensors.start();
              EXPECT_NE(thrown<TimeoutError>([&] { work.wait(std::chrono::milliseconds(1)); }), "")
                  << name;
              tensors.use();
            }
            control.barrier().wait();
            if (g->rank() > 0 && tensors.takes_part()) {
              const std::string failure =
                  thrown<EnvironmentError>([&] { tensors.start().synchronize(); });
              EXPECT_TRUE(failure != "" || tensors.is_right())
                  << name << ": wrong values without an error";
            }
            control.barrier().wait();
            if (g->rank() == 0) {
              EXPECT_TRUE(tensors.are_as_used()) << name << ": written after the call had failed";
            }
          }
        }
      });
}

// The same where another rank is in the middle of the call, perhaps of these very tensors. A
// backend may hold the one that gives up until the other one is out of them, or do without them.
TEST_P(ProcessGroupSuite, NobodyIsInTheTensorsOfACallThatHasFailed) {
  if (size() == 1 || size() > 3)
    GTEST_SKIP() << "two ranks are enough, and three for what the others do";
  if (GetParam().backend == "mpi")
    GTEST_SKIP() << "no rank can say that it stands still within MPI, whose lock it holds";
  if (GetParam().backend == "ucx")
    GTEST_SKIP() << "UCX reads and writes tensors in system calls, which no gate stops";
  if (GetParam().devices > 0) GTEST_SKIP() << "nobody can stand still in a device's memory";
  const std::vector<TensorCall> calls = tensor_calls();
  run_with(
      {.timeout = std::chrono::seconds(100)}, [&](ProcessGroup& control, const MakeGroup& make) {
        for (const TensorCall& call : calls) {
          for (const bool shared : {false, true}) {
            if (shared && GetParam().backend != "shm") continue;  // there it is ordinary memory
            const std::string name = name_of(call, shared);
            const auto g = make({.name = name, .timeout = std::chrono::seconds(90)});
            const TensorsOfACall tensors(call, *g, shared);
            std::unique_ptr<Gate> gate;
            if (g->rank() == 1) gate = std::make_unique<Gate>(tensors.result());
            const Work work = tensors.takes_part() ? tensors.start() : Work();
            if (gate) {
              EXPECT_TRUE(gate->reached()) << name;
            }
            control.barrier().wait();
            if (g->rank() == 0) {
              const std::string failure =
                  thrown<EnvironmentError>([&] { work.wait(std::chrono::milliseconds(1)); });
              EXPECT_TRUE(failure != "" || tensors.is_right())
                  << name << ": wrong values without an error";
              tensors.use();
            }
            const Work given_up = control.barrier();
            if (gate) {
              // More than a waiter takes to give up: rank 0 is back by then, unless the backend
              // holds it.
              const Deadline held = Deadline::after(std::chrono::milliseconds(1500));
              while (!given_up.done() && !held.passed())
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
              gate->open();
            }
            given_up.wait();
            if (g->rank() > 0) {
              const std::string failure = thrown<EnvironmentError>([&] { work.wait(); });
              EXPECT_TRUE(failure != "" || tensors.is_right())
                  << name << ": wrong values without an error";
            }
            control.barrier().wait();
            if (g->rank() == 0) {
              EXPECT_TRUE(tensors.are_as_used()) << name << ": written after the call had failed";
            }
          }
        }
      });
}

}  // namespace lockstep::test
