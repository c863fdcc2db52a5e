// Part of process_group_suite.h: what the operations compute.
#pragma once

namespace lockstep::test {

// Empty, one, odd, a prime, and more than any staging area takes at once.
inline const std::vector<int64_t> kCounts = {0, 1, 7, 64, 1009, 70001};

template <typename F>
void for_all_dtypes(F f) {
  f(float{});
  f(BFloat16{});
  f(Float16{});
  f(int64_t{});
  f(int32_t{});
  f(uint8_t{});
  f(bool{});
}

TEST_P(ProcessGroupSuite, KnowsItsRanks) {
  run([this](ProcessGroup& g) {
    EXPECT_EQ(g.size(), size());
    EXPECT_GE(g.rank(), 0);
    EXPECT_LT(g.rank(), size());
    EXPECT_EQ(g.name(), "world");
    g.barrier().wait();
  });
}

TEST_P(ProcessGroupSuite, AllReduceOfEveryTypeAndOp) {
  run([this](ProcessGroup& g) {
    for_all_dtypes([&](auto zero) {
      using T = decltype(zero);
      for (const auto op : {ReduceOp::sum, ReduceOp::product, ReduceOp::min, ReduceOp::max,
                            ReduceOp::band, ReduceOp::bor, ReduceOp::bxor}) {
        if (is_floating(dtype_of<T>()) && op >= ReduceOp::band) continue;
        for (const int64_t n : {int64_t{1}, int64_t{1009}}) {
          const Tensor t = tensor_of(values<T>(g.rank(), n));
          g.all_reduce(t, {.op = op}).wait();
          EXPECT_TRUE(same_bits(t, reduced<T>(op, size(), 0, n))) << t << " " << name_of(op);
        }
      }
    });
  });
}

template <typename T>
void all_reduce_counts(ProcessGroup& g, const std::vector<int64_t>& counts) {
  for (const int64_t n : counts) {
    const Tensor t = tensor_of(values<T>(g.rank(), n));
    g.all_reduce(t).wait();
    EXPECT_TRUE(same_bits(t, reduced<T>(ReduceOp::sum, g.size(), 0, n))) << t;
  }
}

TEST_P(ProcessGroupSuite, AllReduceOfEveryCount) {
  run([](ProcessGroup& g) {
    all_reduce_counts<float>(g, kCounts);
    all_reduce_counts<float>(g, {400009});
    all_reduce_counts<BFloat16>(g, {0, 3, 600011});
  });
}

// Whatever the ranks, the bits are those of one rank that sums all leaves.
TEST_P(ProcessGroupSuite, SumsOverLeavesAreTheSameBitsForAnyNumberOfRanks) {
  run([this](ProcessGroup& g) {
    constexpr int64_t n = 501;
    for (const int64_t leaves : {8, 9, 12, 16, 31}) {
      const ReduceTree tree(leaves, size());
      std::vector<float> block(n);
      for (int64_t i = 0; i < n; ++i)
        block[static_cast<size_t>(i)] =
            tree_value<float>(ReduceOp::sum, tree.begin(g.rank()),
                              tree.begin(g.rank() + 1) - tree.begin(g.rank()), i);
      const auto total = reduced<float>(ReduceOp::sum, leaves, 0, n);

      const Tensor all = tensor_of(block);
      const Tensor at_root = tensor_of(block);
      g.all_reduce(all, {.tree = &tree}).wait();
      g.reduce(at_root, 0, {.tree = &tree}).wait();
      EXPECT_TRUE(same_bits(all, total)) << leaves << " leaves";
      if (g.rank() == 0) {
        EXPECT_TRUE(same_bits(at_root, total)) << leaves << " leaves";
      }
    }
  });
}

TEST_P(ProcessGroupSuite, ReduceScatter) {
  run([this](ProcessGroup& g) {
    const auto test = [&](auto zero) {
      using T = decltype(zero);
      for (const int64_t n : kCounts) {
        const auto expected = reduced<T>(ReduceOp::sum, size(), g.rank() * n, n);
        const Tensor input = tensor_of(values<T>(g.rank(), size() * n));
        const Tensor output = zeros({n}, dtype_of<T>());
        g.reduce_scatter(output, input).wait();
        EXPECT_TRUE(same_bits(output, expected)) << output;
        EXPECT_TRUE(same_bits(input, values<T>(g.rank(), size() * n))) << "the input changed";
        // The output may be this rank's slice of the input.
        const Tensor slice = input.narrow(0, g.rank() * n, n);
        g.reduce_scatter(slice, input).wait();
        EXPECT_TRUE(same_bits(slice, expected)) << "in place, " << output;
      }
    };
    test(float{});
    test(BFloat16{});
    test(int64_t{});
  });
}

template <typename T>
std::vector<T> concatenated(int ranks, int64_t n) {
  std::vector<T> all;
  for (int r = 0; r < ranks; ++r) {
    const auto part = values<T>(r, n);
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

TEST_P(ProcessGroupSuite, AllGatherGatherAndScatter) {
  run([this](ProcessGroup& g) {
    const auto test = [&](auto zero) {
      using T = decltype(zero);
      for (const int64_t n : kCounts) {
        const Tensor mine = tensor_of(values<T>(g.rank(), n));
        const auto everything = concatenated<T>(size(), n);
        const Tensor all = zeros({size() * n}, dtype_of<T>());
        g.all_gather(all, mine).wait();
        EXPECT_TRUE(same_bits(all, everything)) << all;
        // The input may be this rank's slice of the output.
        const Tensor in_place = zeros({size() * n}, dtype_of<T>());
        in_place.narrow(0, g.rank() * n, n).copy_(mine);
        g.all_gather(in_place, in_place.narrow(0, g.rank() * n, n)).wait();
        EXPECT_TRUE(same_bits(in_place, everything)) << "in place, " << all;

        const int root = size() - 1;
        const Tensor at_root = g.rank() == root ? zeros({size() * n}, dtype_of<T>()) : Tensor();
        g.gather(at_root, mine, root).wait();
        if (g.rank() == root) {
          EXPECT_TRUE(same_bits(at_root, everything)) << all;
        }
        const Tensor back = zeros({n}, dtype_of<T>());
        g.scatter(back, at_root, root).wait();
        EXPECT_TRUE(same_bits(back, values<T>(g.rank(), n))) << back;
      }
    };
    test(float{});
    test(uint8_t{});
    test(bool{});
  });
}

TEST_P(ProcessGroupSuite, BroadcastAndReduceWithEveryRoot) {
  run([this](ProcessGroup& g) {
    for (int root = 0; root < size(); ++root) {
      for (const int64_t n : {int64_t{0}, int64_t{1}, int64_t{1009}, int64_t{70001}}) {
        const Tensor sent = tensor_of(values<int32_t>(g.rank(), n));
        g.broadcast(sent, root).wait();
        EXPECT_TRUE(same_bits(sent, values<int32_t>(root, n))) << "root " << root;
        const Tensor summed = tensor_of(values<float>(g.rank(), n));
        g.reduce(summed, root).wait();
        // Elsewhere than at the root it stays as it was.
        EXPECT_TRUE(same_bits(summed, g.rank() == root ? reduced<float>(ReduceOp::sum, size(), 0, n)
                                                       : values<float>(g.rank(), n)))
            << "root " << root;
      }
    }
  });
}

TEST_P(ProcessGroupSuite, AllToAll) {
  run([this](ProcessGroup& g) {
    for (const int64_t n : kCounts) {
      const Tensor input = tensor_of(values<float>(g.rank(), size() * n));
      const Tensor output = zeros({size() * n});
      g.all_to_all(output, input).wait();
      std::vector<float> expected;
      for (int r = 0; r < size(); ++r)
        for (int64_t i = 0; i < n; ++i) expected.push_back(value_of<float>(r, g.rank() * n + i));
      EXPECT_TRUE(same_bits(output, expected)) << output;
    }
  });
}

TEST_P(ProcessGroupSuite, MessagesKeepTheirOrderAndCrossWithoutDeadlock) {
  run([this](ProcessGroup& g) {
    if (size() == 1) return;
    const int next = (g.rank() + 1) % size(), previous = (g.rank() + size() - 1) % size();
    // Everybody sends first. Small, empty and larger than any buffer on the way.
    const std::vector<int64_t> counts = {1, 0, 1009, 300007, 5};
    std::vector<Work> works;
    for (const int64_t n : counts)
      works.push_back(g.send(tensor_of(values<float>(g.rank(), n)), next));
    for (const int64_t n : counts) {
      const Tensor t = zeros({n});
      g.recv(t, previous).wait();
      EXPECT_TRUE(same_bits(t, values<float>(previous, n))) << t;
    }
    for (const Work& work : works) work.wait();
  });
}

TEST_P(ProcessGroupSuite, ManyCallsRunInOrderWhileNobodyWaits) {
  run([this](ProcessGroup& g) {
    constexpr int64_t n = 3001;
    std::vector<Tensor> sums, gathered;
    std::vector<Work> works;
    const Tensor message = zeros({n});
    const int next = (g.rank() + 1) % size(), previous = (g.rank() + size() - 1) % size();
    for (int i = 0; i < 12; ++i) {
      sums.push_back(tensor_of(values<float>(g.rank() + i, n)));
      gathered.push_back(zeros({n * size()}));
      const Tensor mine = tensor_of(values<float>(g.rank() + i, n));
      works.push_back(g.all_reduce(sums.back()));
      works.push_back(g.all_gather(gathered.back(), mine));
      if (i == 5 && size() > 1) {
        works.push_back(g.recv(message, previous));
        works.push_back(g.send(tensor_of(values<float>(g.rank(), n)), next));
      }
    }
    for (auto work = works.rbegin(); work != works.rend(); ++work) work->wait();
    for (int i = 0; i < 12; ++i) {
      const Tensor sum = sums[static_cast<size_t>(i)].to(kCpu),
                   all = gathered[static_cast<size_t>(i)].to(kCpu);
      for (int64_t e = 0; e < n; e += 97) {
        EXPECT_EQ(sum.data<float>()[e], tree_value<float>(ReduceOp::sum, i, size(), e));
        for (int r = 0; r < size(); ++r)
          EXPECT_EQ(all.data<float>()[r * n + e], value_of<float>(r + i, e));
      }
    }
    if (size() > 1) {
      EXPECT_TRUE(same_bits(message, values<float>(previous, n)));
    }
  });
}

TEST_P(ProcessGroupSuite, CallsRunWithoutAnybodyWaiting) {
  run_with({}, [this](ProcessGroup& g, const MakeGroup& make) {
    const Tensor polled = full({10}, 1, DType::i32);
    const Work work = g.all_reduce(polled);
    const Deadline deadline = Deadline::after(std::chrono::seconds(60));
    while (!work.done() && !deadline.passed()) std::this_thread::yield();
    EXPECT_TRUE(work.done());
    EXPECT_TRUE(same_bits(polled, std::vector<int32_t>(10, size())));
    // A group that goes away first finishes what was asked of it.
    const Tensor forgotten = full({10}, 2, DType::i32);
    make({.name = "brief"})->all_reduce(forgotten);
    EXPECT_TRUE(same_bits(forgotten, std::vector<int32_t>(10, 2 * size())));
  });
}

TEST_P(ProcessGroupSuite, SplitsIntoGroupsOrderedByKey) {
  run([this](ProcessGroup& g) {
    const int color = g.rank() % 2;
    const auto half = g.split(color, -g.rank());  // in descending order
    ASSERT_NE(half, nullptr);
    const int members = (size() + 1 - color) / 2;
    EXPECT_EQ(half->size(), members);
    EXPECT_EQ(half->rank(), members - 1 - g.rank() / 2);
    const Tensor ones = full({5}, 1, DType::i32);
    half->all_reduce(ones).wait();
    EXPECT_TRUE(same_bits(ones, std::vector<int32_t>(5, members)));

    const auto only_first = g.split(g.rank() == 0 ? 3 : -1, 0);
    EXPECT_EQ(only_first != nullptr, g.rank() == 0);
    if (only_first) {
      EXPECT_EQ(only_first->size(), 1);
    }
    // Parent and child are independent of each other.
    const Tensor more = full({3}, 1, DType::i32);
    g.all_reduce(more).wait();
    EXPECT_TRUE(same_bits(more, std::vector<int32_t>(3, size())));
  });
}

TEST_P(ProcessGroupSuite, AllocatedTensorsWorkAloneAndMixedWithOthers) {
  run([this](ProcessGroup& g) {
    for (const int64_t n : {int64_t{1}, int64_t{1009}, int64_t{262147}}) {
      const auto expected = reduced<float>(ReduceOp::sum, size(), 0, n);
      const Tensor shared = g.allocate({n + 3}, DType::f32);
      EXPECT_TRUE(same_bits(shared, std::vector<float>(static_cast<size_t>(n + 3), 0)));
      const Tensor view = shared.narrow(0, 3, n);
      for (const bool mixed : {false, true, false}) {
        const Tensor t = mixed && g.rank() == size() - 1 ? empty({n}) : view;
        t.copy_(tensor_of(values<float>(g.rank(), n)));
        g.all_reduce(t).wait();
        EXPECT_TRUE(same_bits(t, expected)) << t << (mixed ? ", mixed" : "");
      }
      const Tensor wide = g.allocate({size() * n}, DType::f32);
      wide.copy_(tensor_of(values<float>(g.rank(), size() * n)));
      g.reduce_scatter(view, wide).wait();
      EXPECT_TRUE(same_bits(view, reduced<float>(ReduceOp::sum, size(), g.rank() * n, n))) << view;
      wide.narrow(0, g.rank() * n, n).copy_(tensor_of(values<float>(g.rank(), n)));
      g.all_gather(wide, wide.narrow(0, g.rank() * n, n)).wait();
      EXPECT_TRUE(same_bits(wide, concatenated<float>(size(), n))) << wide;
    }
  });
}

// `memory(n)`: a tensor of n elements in the kind of memory that this rank uses.
inline void every_operation(ProcessGroup& g, int64_t n,
                            const std::function<Tensor(int64_t)>& memory, const std::string& what) {
  const int size = g.size(), root = size - 1;
  const bool is_root = g.rank() == root;
  const auto filled = [&](int64_t count) {
    const Tensor t = memory(count);
    t.copy_(tensor_of(values<float>(g.rank(), count)));
    return t;
  };
  const auto sums = reduced<float>(ReduceOp::sum, size, 0, n);
  const auto everything = concatenated<float>(size, n);
  Tensor t = filled(n);
  g.all_reduce(t).wait();
  EXPECT_TRUE(same_bits(t, sums)) << "all_reduce, " << what;
  t = filled(n);
  g.reduce(t, root).wait();
  EXPECT_TRUE(same_bits(t, is_root ? sums : values<float>(g.rank(), n))) << "reduce, " << what;
  t = filled(n);
  g.broadcast(t, root).wait();
  EXPECT_TRUE(same_bits(t, values<float>(root, n))) << "broadcast, " << what;

  const Tensor small = memory(n), mine = filled(n), wide = memory(size * n);
  g.all_gather(wide, mine).wait();
  EXPECT_TRUE(same_bits(wide, everything)) << "all_gather, " << what;
  g.scatter(small, is_root ? wide : Tensor(), root).wait();
  EXPECT_TRUE(same_bits(small, values<float>(g.rank(), n))) << "scatter, " << what;
  wide.zero_();
  g.gather(is_root ? wide : Tensor(), mine, root).wait();
  EXPECT_TRUE(
      same_bits(wide, is_root ? everything : std::vector<float>(static_cast<size_t>(size * n), 0)))
      << "gather, " << what;
  wide.copy_(tensor_of(values<float>(g.rank(), size * n)));
  g.reduce_scatter(small, wide).wait();
  EXPECT_TRUE(same_bits(small, reduced<float>(ReduceOp::sum, size, g.rank() * n, n)))
      << "reduce_scatter, " << what;
  const Tensor swapped = memory(size * n);
  g.all_to_all(swapped, wide).wait();
  const Tensor got = swapped.to(kCpu);
  for (int r = 0; r < size; ++r)
    for (int64_t i = 0; i < n; i += 7)
      ASSERT_EQ(got.data<float>()[r * n + i], value_of<float>(r, g.rank() * n + i))
          << "all_to_all, " << what;
}

// Which ranks' tensors lie in shared memory must not matter, whoever needs them.
TEST_P(ProcessGroupSuite, EveryOperationTakesAnyMixtureOfAllocatedTensors) {
  run([this](ProcessGroup& g) {
    for (const int64_t n : {int64_t{3}, int64_t{5003},
                            int64_t{262147}}) {  // from 1 MiB on, shm uses tensors where they are
      for (const int mask : {-1, 0x55, 2}) {
        if (n > 100'000 && mask == 2) continue;  // under sanitizers large tensors take their time
        const bool shared = ((mask >> (g.rank() % 31)) & 1) != 0;
        const auto memory = [&](int64_t count) {
          return shared ? g.allocate({count}, DType::f32) : zeros({count});
        };
        every_operation(g, n, memory, str(n, " elements, mask ", mask));
      }
    }
  });
}

// More than all slots of a backend hold at once.
TEST_P(ProcessGroupSuite, LargeTensors) {
  run([this](ProcessGroup& g) {
    constexpr int64_t n = 1'100'003;
    const auto sums = reduced<float>(ReduceOp::sum, size(), 0, n);
    for (const bool shared : {false, true}) {
      const Tensor t = shared ? g.allocate({n}, DType::f32) : empty({n});
      t.copy_(tensor_of(values<float>(g.rank(), n)));
      g.all_reduce(t).wait();
      EXPECT_TRUE(same_bits(t, sums)) << (shared ? "allocated" : "ordinary");
      t.copy_(tensor_of(values<float>(g.rank(), n)));
      g.broadcast(t, size() - 1).wait();
      EXPECT_TRUE(same_bits(t, values<float>(size() - 1, n)))
          << (shared ? "allocated" : "ordinary");
    }
  });
}

TEST_P(ProcessGroupSuite, AccountsForItsCalls) {
  run([](ProcessGroup& g) {
    const Work work = g.all_reduce(zeros({1000}));
    work.wait();
    work.synchronize();
    EXPECT_TRUE(work.done());
    EXPECT_EQ(work.error(), nullptr);
    EXPECT_GT(work.duration(), Duration::zero());
    g.barrier().wait();
    const auto calls = g.recent_calls();
    ASSERT_EQ(calls.size(), 2u);
    EXPECT_NE(calls[0].find("all_reduce #1 (f32, 1000 elements, sum"), std::string::npos)
        << calls[0];
    EXPECT_NE(calls[1].find("barrier #2"), std::string::npos) << calls[1];
  });
}

TEST_P(ProcessGroupSuite, GroupsCanBeMadeAgainAndSideBySide) {
  run_with({}, [this](ProcessGroup& g, const MakeGroup& make) {
    for (int i = 0; i < 3; ++i) {
      const auto again = make({.name = "world"});
      const auto other = make({.name = "other"});
      const Tensor a = full({3}, 1, DType::i64), b = full({3}, 2, DType::i64);
      const Work first = again->all_reduce(a), second = other->all_reduce(b);
      second.wait();
      first.wait();
      EXPECT_TRUE(same_bits(a, std::vector<int64_t>(3, size())));
      EXPECT_TRUE(same_bits(b, std::vector<int64_t>(3, 2 * size())));
    }
    g.barrier().wait();
  });
}

// Which of two equal calls is the first does not matter, as long as all ranks number them as they
// run.
TEST_P(ProcessGroupSuite, EqualCallsMayComeFromSeveralThreads) {
  run([this](ProcessGroup& g) {
    const auto reduce_often = [&, device = DeviceScope::current()] {
      const DeviceScope scope(device);
      for (int round = 0; round < 200; ++round) {
        const Tensor t = full({100}, 1);
        g.all_reduce(t).wait();
        ASSERT_TRUE(same_bits(t, std::vector<float>(100, static_cast<float>(size()))));
      }
    };
    std::string failure;
    std::thread other([&] { failure = thrown<UsageError>(reduce_often); });
    const std::string own = thrown<UsageError>(reduce_often);
    other.join();
    EXPECT_EQ(own, "");
    EXPECT_EQ(failure, "");
  });
}

}  // namespace lockstep::test
