// Part of process_group_suite.h: what happens when something goes wrong.
#pragma once

namespace lockstep::test {

// Each rank makes its call; where they differ, all must fail, name both calls, and leave the tensor
// as it was.
struct Mismatch {
  std::string name;
  std::function<Work(ProcessGroup&, const Tensor&)> common, odd;
  std::vector<std::string> words;  // that the message must have
};

inline std::vector<Mismatch> mismatches() {
  const auto sum = [](ProcessGroup& g, const Tensor& t) { return g.all_reduce(t); };
  const auto broadcast = [](ProcessGroup& g, const Tensor& t) { return g.broadcast(t, 0); };
  const auto all = [](ProcessGroup& g, const Tensor& t) { return zeros({g.size() * t.numel()}); };
  const auto gather = [all](uint64_t label) {
    return [=](ProcessGroup& g, const Tensor& t) { return g.gather(all(g, t), t, 0, label); };
  };
  const auto scatter = [all](uint64_t label) {
    return [=](ProcessGroup& g, const Tensor& t) { return g.scatter(t, all(g, t), 0, label); };
  };
  const auto all_to_all = [all](uint64_t label) {
    return
        [=](ProcessGroup& g, const Tensor& t) { return g.all_to_all(all(g, t), all(g, t), label); };
  };
  return {
      {"op",
       sum,
       [](ProcessGroup& g, const Tensor& t) { return g.broadcast(t, 0); },
       {"all_reduce #1", "broadcast #1"}},
      {"count",
       sum,
       [](ProcessGroup& g, const Tensor& t) { return g.all_reduce(t.narrow(0, 0, 900)); },
       {"1000 elements", "900 elements"}},
      {"dtype",
       sum,
       [](ProcessGroup& g, const Tensor&) { return g.all_reduce(zeros({1000}, DType::i32)); },
       {"f32", "i32"}},
      {"reduce op",
       sum,
       [](ProcessGroup& g, const Tensor& t) { return g.all_reduce(t, {.op = ReduceOp::max}); },
       {"sum", "max"}},
      {"root",
       broadcast,
       [](ProcessGroup& g, const Tensor& t) { return g.broadcast(t, 1); },
       {"root 0", "root 1"}},
      {"tree",
       sum,
       [](ProcessGroup& g, const Tensor& t) {
         const ReduceTree tree(g.size() * 3, g.size());
         return g.all_reduce(t, {.tree = &tree});
       },
       {"order"}},
      {"label",
       sum,
       [](ProcessGroup& g, const Tensor& t) { return g.all_reduce(t, {.label = 7}); },
       {"label 7"}},
      {"label of a broadcast",
       broadcast,
       [](ProcessGroup& g, const Tensor& t) { return g.broadcast(t, 0, 7); },
       {"label 7"}},
      {"label of a gather", gather(0), gather(7), {"label 7"}},
      {"label of a scatter", scatter(0), scatter(7), {"label 7"}},
      {"label of an all_to_all", all_to_all(0), all_to_all(7), {"label 7"}},
      {"barrier",
       [](ProcessGroup& g, const Tensor&) { return g.barrier(); },
       sum,
       {"barrier #1", "all_reduce #1"}},
  };
}

TEST_P(ProcessGroupSuite, DifferentCallsFailOnAllRanksAndNameBoth) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  run_with({}, [this](ProcessGroup&, const MakeGroup& make) {
    for (const Mismatch& m : mismatches()) {
      const auto g = make({.name = m.name});
      const Tensor t = tensor_of(values<float>(g->rank(), 1000));
      const bool odd = g->rank() == size() - 1;
      const Work work = odd ? m.odd(*g, t) : m.common(*g, t);
      const std::string message = thrown<UsageError>([&] { work.wait(); });
      for (const std::string& word : m.words)
        EXPECT_NE(message.find(word), std::string::npos) << m.name << ": " << message;
      EXPECT_NE(message.find("rank 0"), std::string::npos) << message;
      EXPECT_NE(message.find("rank " + std::to_string(size() - 1)), std::string::npos) << message;
      EXPECT_TRUE(same_bits(t, values<float>(g->rank(), 1000))) << m.name << ": data was released";
      // The group has ended.
      EXPECT_NE(thrown<EnvironmentError>([&] { g->barrier().wait(); }), "");
    }
  });
}

TEST_P(ProcessGroupSuite, AMessageWithAnotherLabelFailsOnBothSides) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  run([](ProcessGroup& g) {
    if (g.rank() > 1) return;
    const Tensor t = zeros({10});
    const Work work = g.rank() == 0 ? g.send(t, 1, 5) : g.recv(t, 0, 6);
    const std::string message = thrown<UsageError>([&] { work.wait(); });
    EXPECT_NE(message.find("label 5"), std::string::npos) << message;
    EXPECT_NE(message.find("label 6"), std::string::npos) << message;
  });
}

TEST_P(ProcessGroupSuite, AMessageThatDoesNotMatchFailsOnBothSides) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  run([](ProcessGroup& g) {
    if (g.rank() > 1) return;
    const Tensor t = zeros({g.rank() == 0 ? 10 : 20});
    const Work work = g.rank() == 0 ? g.send(t, 1) : g.recv(t, 0);
    const std::string message = thrown<UsageError>([&] { work.wait(); });
    EXPECT_NE(message.find("10 elements"), std::string::npos) << message;
    EXPECT_NE(message.find("20 elements"), std::string::npos) << message;
  });
}

TEST_P(ProcessGroupSuite, AbortReleasesWaitersOnAllRanks) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  run([](ProcessGroup& g) {
    g.barrier().wait();
    if (g.rank() == 0) {
      g.abort("the disk is full");
      EXPECT_NE(thrown<EnvironmentError>([&] { g.barrier().wait(); }).find("the disk is full"),
                std::string::npos);
      return;
    }
    const std::string message =
        thrown<EnvironmentError>([&] { g.all_reduce(zeros({100000})).wait(); });
    EXPECT_NE(message.find("the disk is full"), std::string::npos) << message;
  });
}

// Who looks for the root cause must be able to tell a rank's own failure from what follows from it
// on the others.
TEST_P(ProcessGroupSuite, ErrorsSayWhetherAPeerIsTheCause) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  run_with({.timeout = std::chrono::seconds(100)}, [this](ProcessGroup& control,
                                                          const MakeGroup& make) {
    const bool first = control.rank() == 0;
    {
      const auto g = make({.name = "aborted"});
      if (first) g->abort("the disk is full");
      EXPECT_EQ(blames_peer([&] { g->barrier().wait(); }), !first);
      EXPECT_EQ(blames_peer([&] { g->barrier().wait(); }), !first) << "later calls say the same";
      control.barrier().wait();
    }
    {
      const auto g = make({.name = "left"});
      if (!first) {
        EXPECT_TRUE(blames_peer([&] { g->all_gather(zeros({size() * 10}), zeros({10})).wait(); }));
      }
    }
    control.barrier().wait();
    {
      const auto g = make({.name = "late", .timeout = std::chrono::seconds(1)});
      if (!first) {
        EXPECT_TRUE(blames_peer([&] { g->barrier().wait(); }));
      }
      control.barrier().wait();
    }
    // Different calls: nobody can say who is right.
    const auto g = make({.name = "mismatch"});
    const Tensor t = zeros({10});
    EXPECT_FALSE(blames_peer([&] { first ? g->all_reduce(t).wait() : g->broadcast(t, 0).wait(); }));
    control.barrier().wait();
    // An agreement that one rank cannot join.
    EXPECT_EQ(blames_peer([&] {
                comm::agree(&control, [&] {
                  check(!first, "the folder is missing");
                  return std::string();
                });
              }),
              !first);
    control.barrier().wait();
  });
}

TEST_P(ProcessGroupSuite, AbortFromAnotherThreadReleasesAWaiter) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  run_with({}, [](ProcessGroup& control, const MakeGroup& make) {
    const auto g = make({.name = "doomed"});
    if (g->rank() == 0) {
      // Nobody else comes to this call.
      const Work work = g->all_reduce(zeros({10}));
      std::thread other([&] { g->abort("changed my mind"); });
      EXPECT_NE(thrown<EnvironmentError>([&] { work.wait(); }).find("changed my mind"),
                std::string::npos);
      other.join();
    }
    control.barrier().wait();
  });
}

// As sharded training has it: many gathers and reductions under way, one after the other, when one
// rank gives up.
TEST_P(ProcessGroupSuite, AbortEndsAllThatIsOutstanding) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  run_with(
      {.timeout = std::chrono::seconds(100)}, [this](ProcessGroup& control, const MakeGroup& make) {
        const auto g = make({.name = "sharded", .timeout = std::chrono::seconds(90)});
        const bool last = g->rank() == size() - 1;
        constexpr int64_t n = 1009;
        const Tensor shard = full({n}, 1, DType::i32);
        std::vector<Tensor> full;
        std::vector<Work> works;
        for (int i = 0; i < (last ? 40 : 100); ++i) {
          full.push_back(zeros({size() * n}, DType::i32));
          works.push_back(g->all_gather(full.back(), shard));
          works.push_back(g->reduce_scatter(zeros({n}, DType::i32), full.back()));
        }
        constexpr size_t kCommon = 80;
        for (size_t i = 0; i < kCommon; ++i) works[i].synchronize();
        control.barrier().wait();
        if (last) g->abort("out of memory");
        for (size_t i = kCommon; i < works.size(); ++i) {
          EXPECT_NE(thrown<EnvironmentError>([&] { works[i].wait(); }).find("out of memory"),
                    std::string::npos);
          EXPECT_TRUE(works[i].done());
        }
        for (size_t i = 0; last && i < full.size(); ++i)
          EXPECT_TRUE(same_bits(full[i], std::vector<int32_t>(static_cast<size_t>(size() * n), 1)));
        control.barrier().wait();
      });
}

TEST_P(ProcessGroupSuite, ATimeLimitNamesWhoIsMissing) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  run_with({.timeout = std::chrono::seconds(100)}, [this](ProcessGroup& control,
                                                          const MakeGroup& make) {
    const auto g = make({.name = "late", .timeout = std::chrono::seconds(2)});
    g->all_reduce(zeros({10})).wait();
    if (g->rank() != size() - 1) {
      // Who notices first tells the others, so not all need have waited to the end.
      const std::string message =
          thrown<EnvironmentError>([&] { g->broadcast(zeros({10}), 0).wait(); });
      EXPECT_NE(message.find("rank " + std::to_string(size() - 1)), std::string::npos) << message;
      EXPECT_NE(message.find("broadcast #2"), std::string::npos) << message;
      EXPECT_NE(message.find("not arrived"), std::string::npos) << message;
    }
    control.barrier().wait();
  });
}

// Long before its limit.
TEST_P(ProcessGroupSuite, ARankThatIsLateIsNamedInTheLogWhileTheOthersWait) {
  if (size() != 2) GTEST_SKIP() << "one of those that wait says it: here there is only one";
  if (GetParam().backend == "transport") GTEST_SKIP() << "the test's transport has no log";
  run_with({.timeout = std::chrono::minutes(10)}, [](ProcessGroup& control, const MakeGroup& make) {
    const auto g = make({.name = "late", .timeout = std::chrono::minutes(10)});
    g->barrier().wait();
    std::mutex mutex;
    std::string said;
    const auto says = [&](const std::string& text) {
      std::lock_guard lock(mutex);
      return said.find(text) != std::string::npos;
    };
    if (g->rank() == 0)
      log::set_sink([&](std::string_view line) {
        std::lock_guard lock(mutex);
        said += line;
      });
    const Work work = g->rank() == 0 ? g->barrier() : Work();
    if (g->rank() == 0) {
      const Deadline limit = Deadline::after(std::chrono::seconds(60));
      while (!says("in group 'late'") && !limit.passed())
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    control.barrier().wait();
    if (g->rank() == 0) {
      log::set_sink(nullptr);
      std::lock_guard lock(mutex);
      EXPECT_NE(said.find("barrier #2 in group 'late'"), std::string::npos) << said;
      EXPECT_NE(said.find("is held up for 10 s: rank 1"), std::string::npos) << said;
      EXPECT_NE(said.find("has not arrived"), std::string::npos) << said;
    }
    if (g->rank() == 1) g->barrier().wait();
    work.wait();
  });
}

TEST_P(ProcessGroupSuite, AWaitCanHaveALimitOfItsOwn) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  run_with({}, [](ProcessGroup& control, const MakeGroup& make) {
    const auto g = make({.name = "slow"});
    if (g->rank() == 0) {
      const Work work = g->barrier();
      EXPECT_FALSE(work.done());
      EXPECT_NE(thrown<TimeoutError>([&] {
                  work.wait(std::chrono::milliseconds(20));
                }).find("barrier #1"),
                std::string::npos);
      EXPECT_GT(work.exposed(), Duration::zero());
      // After a wait that gave up, the ranks are no longer in step.
      EXPECT_NE(thrown<EnvironmentError>([&] { work.wait(); }), "");
    }
    control.barrier().wait();
  });
}

// As at the group's own limit: the group, the call, and who has not come.
// For a call to come to where it waits for other ranks. A device first comes to what was queued
// before the call.
inline Duration long_enough(const ProcessGroup& group) {
  return std::chrono::milliseconds(group.device() == kCpu ? 20 : 2000);
}

TEST_P(ProcessGroupSuite, AWaitThatGivesUpNamesWhoIsMissing) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  run_with(
      {.timeout = std::chrono::seconds(100)}, [this](ProcessGroup& control, const MakeGroup& make) {
        const auto contains = [](const std::string& text, const std::string& part) {
          return text.find(part) != std::string::npos;
        };
        const std::string last = "rank " + std::to_string(size() - 1);
        {
          const auto g = make({.name = "impatient", .timeout = std::chrono::seconds(90)});
          g->barrier().wait();
          control.barrier().wait();
          if (g->rank() == 0) {
            // The second call stands behind the first, which nobody waits for.
            const Duration limit = long_enough(*g);
            g->all_reduce(zeros({10}));
            const Work second = g->broadcast(zeros({10}), 0);
            const std::string message = thrown<TimeoutError>([&] { second.wait(limit); });
            for (const auto& part : {std::string("'impatient'"), std::string("broadcast #3"),
                                     std::string("all_reduce #2"), std::string("not arrived"),
                                     str("given up after a wait of ", seconds(limit), " s")})
              EXPECT_TRUE(contains(message, part)) << part << " is not in: " << message;
            const bool as_range = contains(message, "ranks 1 to " + std::to_string(size() - 1));
            for (int r = 1; r < size(); ++r)
              EXPECT_TRUE(as_range || contains(message, std::to_string(r))) << message;
            EXPECT_TRUE(contains(message, "rank")) << message;
          }
          control.barrier().wait();
        }
        // A message that does not come.
        const auto g = make({.name = "lonely", .timeout = std::chrono::seconds(90)});
        if (g->rank() == 0) {
          const Work work = g->recv(zeros({10}), size() - 1);
          const std::string message = thrown<TimeoutError>([&] { work.wait(long_enough(*g)); });
          for (const auto& part :
               {std::string("'lonely'"), std::string("send #1"), last, std::string("not arrived")})
            EXPECT_TRUE(contains(message, part)) << part << " is not in: " << message;
        }
        control.barrier().wait();
      });
}

TEST_P(ProcessGroupSuite, ARankThatLeavesIsMissedByName) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  run_with({}, [this](ProcessGroup& control, const MakeGroup& make) {
    {
      const auto g = make({.name = "short"});
      g->barrier().wait();
      if (g->rank() != size() - 1) {
        const std::string message =
            thrown<EnvironmentError>([&] { g->all_reduce(zeros({10})).wait(); });
        EXPECT_NE(message.find("rank " + std::to_string(size() - 1)), std::string::npos) << message;
      }
    }
    control.barrier().wait();
  });
}

TEST_P(ProcessGroupSuite, ARankThatUnwindsFromAnErrorReleasesTheOthers) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  run_with({}, [](ProcessGroup& control, const MakeGroup& make) {
    try {
      const auto g = make({.name = "unlucky"});
      g->barrier().wait();
      if (g->rank() == 0) {
        // Nobody else makes this call; without the error the group would wait for it.
        g->broadcast(zeros({10}), 0);
        throw std::runtime_error("bad data");
      }
      EXPECT_NE(thrown<EnvironmentError>([&] { g->recv(zeros({10}), 0).wait(); }).find("rank 0"),
                std::string::npos);
    } catch (const std::runtime_error& e) {
      EXPECT_STREQ(e.what(), "bad data");
    }
    control.barrier().wait();
  });
}

TEST_P(ProcessGroupSuite, DestroyingAGroupWithdrawsItsReceives) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  run_with(
      {.timeout = std::chrono::seconds(100)}, [this](ProcessGroup& control, const MakeGroup& make) {
        auto g = make({.name = "short", .timeout = std::chrono::seconds(90)});
        const Tensor t = full({10}, control.rank());
        if (control.rank() == 0) {
          const Work first = g->recv(t, 1), second = g->recv(t, 1);
          g.reset();
          for (const Work& work : {first, second})
            EXPECT_NE(
                thrown<EnvironmentError>([&] { work.wait(); }).find("this rank destroys the group"),
                std::string::npos);
          EXPECT_TRUE(same_bits(t, std::vector<float>(10, 0)));
        }
        control.barrier().wait();
        if (control.rank() == 1) {
          const std::string message = thrown<EnvironmentError>([&] { g->send(t, 0).wait(); });
          EXPECT_NE(message.find("rank 0"), std::string::npos) << message;
          EXPECT_NE(message.find("left"), std::string::npos) << message;
        }
        control.barrier().wait();
      });
}

// The group goes on among those that are left.
TEST_P(ProcessGroupSuite, AWithdrawnReceiveEndsNothingElse) {
  if (size() < 3) GTEST_SKIP() << "needs three ranks";
  run_with({.timeout = std::chrono::seconds(100)},
           [](ProcessGroup& control, const MakeGroup& make) {
             auto g = make({.name = "short", .timeout = std::chrono::seconds(90)});
             const Tensor t = full({10'000}, 1);
             if (control.rank() == 0) {
               g->recv(t, 1);
               g.reset();
             }
             control.barrier().wait();
             if (control.rank() == 1) g->send(t, 2).wait();
             if (control.rank() == 2) g->recv(t, 1).wait();
             control.barrier().wait();
           });
}

// A message that is there already is no longer the sender's.
TEST_P(ProcessGroupSuite, DestroyingAGroupTakesMessagesWhoseSenderHasCome) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  run_with({.timeout = std::chrono::seconds(100)},
           [](ProcessGroup& control, const MakeGroup& make) {
             auto g = make({.name = "short", .timeout = std::chrono::seconds(90)});
             const Tensor t = full({10}, control.rank());
             Work work;
             if (control.rank() == 0) work = g->recv(t, 1);
             if (control.rank() == 1) g->send(t, 0).wait();
             control.barrier().wait();
             g.reset();
             work.wait();
             if (control.rank() < 2) {
               EXPECT_TRUE(same_bits(t, std::vector<float>(10, 1)));
             }
             control.barrier().wait();
           });
}

// Who waited too long wants to know what to change; who gave up by a limit of its own knows.
TEST_P(ProcessGroupSuite, ATimeLimitSaysHowToChangeIt) {
  if (size() == 1) GTEST_SKIP() << "needs two ranks";
  run_with({.timeout = std::chrono::seconds(100)}, [](ProcessGroup& control,
                                                      const MakeGroup& make) {
    for (const bool own_limit : {false, true}) {
      const auto g = make({.name = "late", .timeout = std::chrono::seconds(own_limit ? 90 : 1)});
      if (g->rank() == 0) {
        const Work work = g->barrier();
        const std::string message = thrown<TimeoutError>(
            [&] { own_limit ? work.wait(std::chrono::milliseconds(20)) : work.wait(); });
        EXPECT_EQ(message.find("parallel.timeout_s") != std::string::npos, !own_limit) << message;
        EXPECT_EQ(message.find("GroupOptions::timeout") != std::string::npos, !own_limit)
            << message;
      }
      control.barrier().wait();
    }
  });
}

TEST_P(ProcessGroupSuite, WrongUseFailsAtOnceAndLeavesTheGroupUsable) {
  run([this](ProcessGroup& g) {
    const Tensor t = zeros({4, 6});
    EXPECT_NE(thrown<UsageError>([&] { g.all_reduce(t.transpose(0, 1)); }).find("contiguous"),
              std::string::npos);
    EXPECT_NE(thrown<UsageError>([&] { g.all_reduce(Tensor()); }).find("undefined"),
              std::string::npos);
    EXPECT_NE(thrown<UsageError>([&] { g.broadcast(t, size()); }).find("root"), std::string::npos);
    EXPECT_NE(thrown<UsageError>([&] { g.all_gather(zeros({5}), zeros({size() == 1 ? 4 : 5})); }),
              "");
    EXPECT_NE(
        thrown<UsageError>([&] { g.reduce_scatter(zeros({3}, DType::i32), zeros({3 * size()})); }),
        "");
    EXPECT_NE(thrown<UsageError>([&] { g.all_reduce(t, {.op = ReduceOp::band}); }).find("integers"),
              std::string::npos);
    EXPECT_NE(
        thrown<UsageError>([&] { g.all_to_all(zeros({7 * size() + 1}), zeros({7 * size()})); }),
        "");
    EXPECT_NE(thrown<UsageError>([&] { g.send(t, g.rank()); }).find("itself"), std::string::npos);
    EXPECT_NE(thrown<UsageError>([&] { g.recv(t, -1); }), "");
    const ReduceTree other(size() + 1);
    EXPECT_NE(thrown<UsageError>([&] { g.all_reduce(t, {.tree = &other}); }).find("ranks"),
              std::string::npos);
    g.all_reduce(t).wait();
  });
}

// The other ranks do not know of the call, so it must not count.
TEST_P(ProcessGroupSuite, ACallThatWasRefusedHasTakenNoNumber) {
  run([this](ProcessGroup& g) {
    if (g.rank() == 0) {
      const Tensor away = Tensor::wrap(
          Storage::absent(16, DeviceScope::current(), "the values are away"), {4}, DType::f32);
      EXPECT_NE(thrown<UsageError>([&] { g.all_reduce(away); }).find("are away"),
                std::string::npos);
      EXPECT_NE(thrown<UsageError>([&] { g.broadcast(away, 0); }), "");
      EXPECT_NE(thrown<UsageError>([&] { g.send(away, size() - 1); }), "");
    }
    const Tensor t = full({4}, 1);
    g.all_reduce(t).wait();
    EXPECT_TRUE(same_bits(t, std::vector<float>(4, static_cast<float>(size()))));
    if (size() == 1) return;
    if (g.rank() == 0) g.send(t, size() - 1).wait();
    if (g.rank() == size() - 1) g.recv(t, 0).wait();
  });
}

// Duration::max() and what comes near it: no limit at all, and above all not one that has passed
// already.
TEST_P(ProcessGroupSuite, TheLongestLimitsDoNotOverflow) {
  for (const Duration limit : {Duration::max(), Duration::max() - std::chrono::hours(1),
                               Duration(std::chrono::hours(24 * 365 * 290))}) {
    run_with({.timeout = limit}, [this, limit](ProcessGroup& g, const MakeGroup&) {
      const Tensor t = full({10}, 1);
      g.all_reduce(t).wait(limit);
      g.split(0, g.rank())->barrier().wait();
      g.barrier().wait();
      EXPECT_TRUE(same_bits(t, std::vector<float>(10, static_cast<float>(size()))));
    });
  }
}

}  // namespace lockstep::test
