// Engine: runs a sharded model. It follows the passes of units through their hooks and the autograd
// graph, drives Schedule and Reducer, and counts the micro-batches of the step.
//
// engine.cpp: construction, and events in passes. step.cpp: micro-batches and steps. values.cpp:
// checks who changes values, and when.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/exposure.h"
#include "data_parallel/uneven_inputs.h"
#include "fsdp/engine/event_log.h"
#include "fsdp/engine/slices.h"
#include "fsdp/fully_shard.h"
#include "fsdp/mesh.h"
#include "fsdp/reducer.h"
#include "fsdp/schedule.h"
#include "fsdp/unit.h"

namespace lockstep::fsdp {

// The public calls are those of FullyShardedDataParallel; its header documents them.
class Engine {
 public:
  Engine(std::shared_ptr<nn::Module> module, const comm::DeviceMesh& mesh, const Options& options);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  // `self`: this engine. Modules keep the hooks forever; without the engine they throw.
  void install_hooks(const std::shared_ptr<Engine>& self, std::optional<DType> output);

  void begin_micro_batch() { log_.begin_micro_batch(schedule_.pass() + 1); }
  // `micro_batch`: its number in the step; none: the first one that this rank still has to do.
  void backward(const Variable& loss, std::optional<int64_t> micro_batch);
  void finish();
  int active_ranks(bool have_input);
  void skip();
  void values_changed();

  const Assignment& assignment() const { return assignment_; }
  int64_t micro_batches() const { return micro_batches_; }
  const Mesh& mesh() const { return mesh_; }
  const std::vector<std::unique_ptr<Unit>>& units() const { return units_; }
  const OwnedSlices& slices() const { return slices_; }
  const MemoryPlan& memory() const { return memory_; }
  Duration exposed() const { return exposed_.total(); }

 private:
  // Events in passes.
  void watch(Unit& unit);
  std::shared_ptr<const Use> note(const Event& event);
  std::shared_ptr<const Use> act(const Event& event);
  void on_gradient(Unit& unit);
  void on_first_gradient(Unit& unit, const Parameter& p);
  void on_read(Unit& unit);
  void check_current(const Unit& unit, const Use& use);

  // Micro-batches.
  int64_t leaf_of(std::optional<int64_t> micro_batch) const;
  void begin_round(std::optional<int64_t> leaf, bool zeros);
  void end_round();
  void abandon_micro_batch();
  void repeat_without_input();
  void complete_unused();
  void check_trained();
  void check_taken();
  void check_said(bool has_input);
  [[noreturn]] void fail_unused(const std::vector<Parameter>& unused);

  // Values.
  void release_old_values();
  void check_values(const Unit& unit);
  void check_not_written(const Unit& unit);
  void check_all_values();

  // Ends the group: the other ranks wait in collectives that this rank will never join.
  [[noreturn]] void fail(const std::string& message);

  std::shared_ptr<nn::Module> module_;
  const int64_t micro_batches_;
  const bool find_unused_;
  const Mesh mesh_;
  const Assignment assignment_;
  const std::vector<std::unique_ptr<Unit>> units_;
  Reducer reducer_;
  Schedule schedule_;
  const MemoryPlan memory_;
  OwnedSlices slices_;
  struct Taker {
    Parameter parameter;
    ScopedHook hook;
  };
  std::vector<Taker> takers_;  // they take the gradients of all trained parameters

  // The current step.
  int64_t round_ = 0;  // the next round
  int64_t done_ = 0;   // number of finished micro-batches of this rank
  bool in_backward_ = false;
  // True from finish() to the end of the next backward(), when slices may change.
  bool between_steps_ = true;
  std::map<const Unit*, int64_t> missing_;  // gradients that are still to come
  EventLog log_;
  data_parallel::UnevenInputs uneven_;
  comm::Exposure exposed_;
};

}  // namespace lockstep::fsdp
