// A whole run: when it saves, and what it keeps where a step cannot be made. Ranks are threads.
#include "train/run/loop.h"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <set>

#include <gmock/gmock.h>
#include <sys/resource.h>

#include "checkpoint/checkpoint.h"
#include "tests/support/run_group.h"
#include "tests/support/temp_dir.h"

namespace lockstep::train {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::Not;

class Loop : public testing::TestWithParam<int> {
 protected:
  Loop() { write_text('a'); }

  // `first`: the byte that tells two texts of one size apart, where no sample of this seed is
  // taken.
  void write_text(char first) const {
    std::ofstream out(text_, std::ios::binary | std::ios::trunc);
    out << first;
    for (int i = 1; i < 6000; ++i) out << static_cast<char>('a' + i * i % 23);
  }
  // Not of this very moment: what comes is then seen, however coarse the file system's clock.
  void age_text() const {
    std::filesystem::last_write_time(
        text_, std::filesystem::last_write_time(text_) - std::chrono::hours(1));
  }

  Config config(const std::string& name, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> sets = {"run.dir=" + dir_.path(), "run.name=" + name,
                                     "data.path=" + text_};
    sets.insert(sets.end(), more.begin(), more.end());
    return parse_config(
        "model: {kind: gpt, layers: 1, heads: 1, dim: 8, block: 8}\n"
        "train: {steps: 8, global_batch: 4, micro_batch: 1, eval_batches: 0}\n"
        "checkpoint: {keep: 0}\n",
        "test", sets);
  }

  // What each rank threw. `options` of a rank.
  std::vector<std::string> run(const Config& config,
                               const std::function<RunOptions(int rank)>& options) {
    testing::internal::CaptureStdout();
    const auto failures = test::run_group(GetParam(), [&](const test::Group& group) {
      const RunResult result = run_training(config, group, options(group->rank()));
      if (group->rank() == 0) weights_ = result.weights_sha256;
    });
    screen_ = testing::internal::GetCapturedStdout();
    return failures;
  }
  std::vector<std::string> run(const Config& config) {
    return run(config, [](int) { return RunOptions{}; });
  }
  // The weights of a run that nothing disturbs.
  std::string straight(const std::vector<std::string>& more = {}) {
    test::expect_success(run(config("straight", more)));
    return weights_;
  }
  // Rank 0 calls `act` before that step.
  std::function<RunOptions(int)> before_step(int step, const std::function<void()>& act,
                                             const std::string& resume = "") {
    calls_ = 0;
    return [this, step, act, resume](int rank) {
      RunOptions options;
      options.resume = resume;
      if (rank == 0)
        options.stop_requested = [this, step, act] {
          if (++calls_ == step) act();
          return false;
        };
      return options;
    };
  }
  std::vector<int64_t> saved_steps(const std::string& name) const {
    std::vector<int64_t> steps;
    for (const checkpoint::Listed& each : checkpoint::list(
             dir_.path() + "/" + name + "/checkpoints", checkpoint::Check::everything)) {
      EXPECT_EQ(each.problem, "");
      steps.push_back(each.step);
    }
    return steps;
  }

  const test::TempDir dir_;
  const std::string text_ = dir_.path() + "/text.txt";
  std::string weights_, screen_;
  std::atomic<int> calls_{0};
};

TEST_P(Loop, SavesByTheClockOfRank0) {
  const std::string expected = straight();
  for (const bool async : {false, true}) {
    const std::string name = async ? "async" : "waiting";
    // A quarter of an hour goes by with the steps 2, 5 and 8. The last one saves anyway.
    const auto start = Clock::now();
    std::atomic<int> minutes = 0;
    test::expect_success(
        run(config(name, {str("checkpoint.async=", async ? "true" : "false")}), [&](int rank) {
          RunOptions options;
          options.stop_requested = [&minutes, rank] {
            if (rank == 0) minutes += 6;
            return false;
          };
          options.now = [&minutes, start, rank] {
            return start + (rank == 0 ? std::chrono::minutes(minutes) : std::chrono::hours(9));
          };
          return options;
        }));
    const std::vector<int64_t> steps = saved_steps(name);
    EXPECT_THAT(steps, testing::Contains(3))
        << name << ": the first step that began 15 minutes after the start";
    if (!async) {
      EXPECT_THAT(steps, ElementsAre(3, 6, 8));
    }
    EXPECT_EQ(weights_, expected) << name;
  }
}

TEST_P(Loop, ZeroMinutesSaveNothingByTime) {
  const auto start = Clock::now();
  std::atomic<int> hours = 0;
  test::expect_success(run(config("never", {"checkpoint.every_minutes=0"}), [&](int) {
    RunOptions options;
    options.now = [&] { return start + std::chrono::hours(++hours); };
    return options;
  }));
  EXPECT_THAT(saved_steps("never"), ElementsAre(8));
}

// A folder that cannot be written to when the second step begins, and can be again when the tenth
// does.
TEST_P(Loop, ASaveByTimeThatFailsIsTriedAgainSoon) {
  const std::string folder = dir_.path() + "/retried/checkpoints";
  const auto start = Clock::now();
  std::atomic<int> minutes = 0, looks = 0;
  test::expect_success(run(config("retried", {"train.steps=40"}), [&](int rank) {
    RunOptions options;
    options.stop_requested = [&, rank] {
      if (rank != 0) return false;
      ++looks;
      minutes += looks < 5 ? 5 : 1;
      if (looks == 2) {
        std::filesystem::remove_all(folder);
        std::ofstream(folder) << "no folder";
      }
      if (looks == 10) std::filesystem::remove(folder);
      return false;
    };
    options.now = [&minutes, start] { return start + std::chrono::minutes(minutes); };
    return options;
  }));
  // Tried after the steps 3, 4, 6 and 10. Without retries the second one would come after step 14.
  EXPECT_EQ(saved_steps("retried")[0], 10) << screen_;
  EXPECT_THAT(screen_, HasSubstr("step 10 is saved, after 3 saves that failed"));
  const std::string warning = "warning: [checkpoint] step ";
  const size_t first = screen_.find(warning);
  ASSERT_NE(first, std::string::npos) << screen_;
  EXPECT_EQ(screen_.find(warning, first + 1), std::string::npos) << "once only: " << screen_;
}

TEST_P(Loop, ALimitOfFileSizesIsSaidBeforeTheFirstStep) {
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit tight {
    .rlim_cur = 6000, .rlim_max = before.rlim_max
  };  // less than each rank's file
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
  const auto failures = run(config("limited"));
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(failures, Each(HasSubstr("step 8 was not saved: ")));
  const size_t said = screen_.find("warning: rank 0: its files may have ");
  ASSERT_NE(said, std::string::npos) << screen_;
  EXPECT_LT(said, screen_.find("step 1/8"));
}

// Whenever rank 0 looks at its clock, a second has gone by: a step takes 1 s, 2 s go by until
// requests are looked for again, and a save takes 1 s.
TEST_P(Loop, SaysOnceThatAStopTakesLongerThanItsBudget) {
  const auto start = Clock::now();
  const std::string warning =
      "warning: when it is asked to stop, this run may need 4.00 s (3.00 s until a step ends it, "
      "1.00 s for the save), "
      "but checkpoint.stop_budget_s allows 3.90 s: ";
  for (const auto& [budget, warns] :
       std::vector<std::pair<std::string, bool>>{{"3.9", true}, {"4", false}, {"0", false}}) {
    std::atomic<int> looks = 0;
    test::expect_success(
        run(config("budget" + budget, {"checkpoint.every=3", "checkpoint.stop_budget_s=" + budget}),
            [&](int rank) {
              RunOptions options;
              options.now = [&looks, start, rank] {
                return start + std::chrono::seconds(rank == 0 ? ++looks : 0);
              };
              return options;
            }));
    const size_t first = screen_.find("warning: when it is asked to stop");
    EXPECT_EQ(first != std::string::npos, warns) << budget << ": " << screen_;
    if (!warns) continue;
    EXPECT_THAT(screen_, AllOf(HasSubstr(warning),
                               HasSubstr("--signal=USR1@6, or --signal=B:USR1@6 where")));
    EXPECT_EQ(screen_.find("asked to stop", first + warning.size()), std::string::npos)
        << "only once: " << screen_;
  }
}

TEST_P(Loop, AStopSaysHowLongItsSaveTook) {
  const auto start = Clock::now();
  std::atomic<int> looks = 0, steps = 0;
  test::expect_success(test::run_group(GetParam(), [&](const test::Group& group) {
    const int rank = group->rank();
    RunOptions options;
    options.now = [&looks, start, rank] {
      return start + std::chrono::seconds(rank == 0 ? ++looks : 0);
    };
    options.stop_requested = [&steps, rank] { return rank == 0 && ++steps == 3; };
    const RunResult result = run_training(config("stopped"), group, options);
    EXPECT_FALSE(result.finished);
    EXPECT_EQ(result.steps_done, 3);
    if (rank == 0) {
      EXPECT_EQ(result.last_save, std::chrono::seconds(1));
    }
  }));
}

TEST_P(Loop, ALossThatIsNotFiniteLeavesTheStateBeforeIt) {
  for (const char* strategy : {"ddp", "fsdp"}) {
    const std::string name = std::string("diverged_") + strategy;
    const std::vector<std::string> sets = {"optim.kind=sgd", "optim.lr=1e30", "train.grad_clip=0",
                                           "optim.weight_decay=0",
                                           std::string("parallel.strategy=") + strategy};
    const auto failures = run(config(name, sets));
    const std::vector<int64_t> steps = saved_steps(name);
    ASSERT_EQ(steps.size(), 1u);
    EXPECT_THAT(failures, Each(AllOf(HasSubstr(str("step ", steps[0] + 1, ": the loss is ")),
                                     HasSubstr(str("The state after step ", steps[0],
                                                   " is saved in '", dir_.path(), "/", name)))));
    // It is the state of a run that ends there.
    std::vector<std::string> shorter = sets;
    shorter.push_back(str("train.steps=", steps[0]));
    test::expect_success(run(config(name + "_shorter", shorter)));
    const auto saved = checkpoint::Checkpoint::open(dir_.path() + "/" + name + "/checkpoints/" +
                                                    checkpoint::step_folder(steps[0]));
    const auto expected = checkpoint::Checkpoint::open(
        dir_.path() + "/" + name + "_shorter/checkpoints/" + checkpoint::step_folder(steps[0]));
    for (const auto& [entry, info] : expected.manifest().entries)
      EXPECT_EQ(saved.read_whole(entry).to_vector<float>(),
                expected.read_whole(entry).to_vector<float>())
          << entry;
  }
}

// The older checkpoint may be the one to go on from.
TEST_P(Loop, ARunThatDivergesRemovesNoCheckpoint) {
  const std::vector<std::string> sets = {"optim.kind=sgd", "train.grad_clip=0",
                                         "checkpoint.keep=1"};
  const auto with = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = sets;
    all.insert(all.end(), more.begin(), more.end());
    return config("keeps", all);
  };
  test::expect_success(run(with({"train.steps=2"})));
  const auto failures = run(with({"optim.lr=1e30"}), before_step(
                                                         0, [] {}, "auto"));
  EXPECT_THAT(failures, Each(HasSubstr("the loss is ")));
  EXPECT_THAT(saved_steps("keeps"), ElementsAre(2, 3));
}

TEST_P(Loop, DataThatChangeWhileTheRunUsesThemCostNothing) {
  const std::string expected = straight();
  const std::string before =
      checkpoint::Checkpoint::open(dir_.path() + "/straight/checkpoints/step-00000008")
          .metadata("data");
  const std::vector<std::pair<std::string, std::function<void()>>> changes = {
      {"shorter", [&] { std::filesystem::resize_file(text_, 100); }},
      {"longer", [&] { std::ofstream(text_, std::ios::app) << "more"; }},
      {"gone", [&] { std::filesystem::remove(text_); }},
      {"other", [&] { write_text('x'); }},
  };
  for (const auto& [name, change] : changes) {
    write_text('a');
    age_text();
    const auto failures = run(config(name), before_step(4, change));
    EXPECT_THAT(failures,
                Each(AllOf(HasSubstr("data.path: '" + text_), HasSubstr("The state after step "))));
    const std::vector<int64_t> steps = saved_steps(name);
    ASSERT_EQ(steps.size(), 1u) << name;
    EXPECT_GE(steps[0], 2) << name;
    const auto saved = checkpoint::Checkpoint::open(dir_.path() + "/" + name + "/checkpoints/" +
                                                    checkpoint::step_folder(steps[0]));
    EXPECT_EQ(saved.metadata("data"), before) << name << ": the data that the steps were made of";

    // With what is there now the run does not go on, and with the data of before it ends with the
    // same bits.
    EXPECT_NE(run(config(name), before_step(
                                    0, [] {}, "auto"))[0],
              "")
        << name;
    write_text('a');
    test::expect_success(run(config(name), before_step(
                                               0, [] {}, "auto")));
    EXPECT_EQ(weights_, expected) << name;
  }
}

TEST_P(Loop, DataOfTheSameBytesAreNoChange) {
  const std::string expected = straight();
  for (const std::string name : {"touched", "replaced"}) {
    write_text('a');
    age_text();
    test::expect_success(run(config(name), before_step(4, [&, name] {
                               if (name == "touched") return write_text('a');
                               std::filesystem::copy_file(text_, text_ + ".new");
                               std::filesystem::rename(text_ + ".new", text_);
                             })));
    EXPECT_EQ(weights_, expected) << name;
    EXPECT_THAT(screen_,
                HasSubstr("were found written or replaced, with the same bytes: the run continues"))
        << name;
  }
}

TEST_P(Loop, DataThatChangeBeforeAnEvaluationLeaveTheStepBeforeIt) {
  // Only rank 0 says when, so the ranks may be anywhere in the step before: it is the evaluation's
  // own data that are gone for good.
  const auto failures =
      run(config("evaluated", {"train.eval_every=1", "train.eval_batches=2", "train.steps=3"}),
          before_step(2, [&] { std::filesystem::remove(text_); }));
  EXPECT_THAT(failures, Each(AllOf(HasSubstr("data.path: '" + text_),
                                   HasSubstr("The state after step 1 is saved in '"))));
  EXPECT_THAT(saved_steps("evaluated"), ElementsAre(1));
}

// Restarted ranks must not begin anew on other data, where neither memory nor disk says what the
// data were. More bytes than anybody reads in the time of a test. They take no room on the disk.
TEST_P(Loop, ASaveDoesNotWaitForAllDataToBeRead) {
  std::filesystem::resize_file(text_, uintmax_t{1} << 42);
  age_text();
  for (const bool async : {false, true}) {
    const std::string name = async ? "async" : "waiting";
    test::expect_success(run(
        config(name, {str("checkpoint.async=", async ? "true" : "false"), "checkpoint.every=3"})));
    EXPECT_THAT(saved_steps(name), ElementsAre(3, 6, 8)) << name;
    // Of data that are not read the save holds samples, and no sign that they need not be read
    // again.
    const auto saved =
        checkpoint::Checkpoint::open(dir_.path() + "/" + name + "/checkpoints/step-00000008");
    EXPECT_THAT(saved.metadata(), AllOf(Contains(Key("data")), Not(Contains(Key("data_stamp")))))
        << name;
  }
  // And the run goes on from it without reading them.
  const auto more = config("waiting", {"train.steps=9"});
  test::expect_success(run(more, [](int) {
    RunOptions options;
    options.resume = "auto";
    return options;
  }));
  EXPECT_THAT(saved_steps("waiting"), ElementsAre(3, 6, 8, 9));
}

TEST_P(Loop, RestartedRanksFindTheDataOfTheJob) {
  const auto store = std::make_shared<comm::HashStore>();
  const JobNotes first(store, "run", 1), second(store, "run", 2);
  const auto with = [](const JobNotes& notes, int64_t restarts) {
    return [&notes, restarts](int rank) {
      RunOptions options;
      options.restarted = restarts > 0;
      if (rank == 0) options.notes = &notes;
      return options;
    };
  };
  test::expect_success(run(config("job"), with(first, 0)));
  std::filesystem::remove_all(dir_.path() + "/job");
  write_text('x');
  EXPECT_THAT(run(config("job"), with(second, 1)),
              Each(HasSubstr("the data changed since this job began (text, 6000 bytes, xxh3 ")));
  write_text('a');
  test::expect_success(run(config("job"), with(second, 1)));
}

INSTANTIATE_TEST_SUITE_P(Ranks, Loop, testing::Values(1, 2),
                         [](const auto& ranks) { return str(ranks.param, "ranks"); });

}  // namespace
}  // namespace lockstep::train
