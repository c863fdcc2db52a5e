// CountingBackend: another backend, and what went through it.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "comm/engine/backend.h"

namespace lockstep::test {

// Thread-safe, as a backend is.
class CountingBackend final : public comm::Backend {
 public:
  explicit CountingBackend(std::unique_ptr<comm::Backend> real) : real_(std::move(real)) {}

  int64_t calls() const { return calls_; }
  // That this rank received: those of all ranks, where a call brings them together.
  int64_t bytes() const { return bytes_; }

  std::string name() const override { return real_->name(); }
  int rank() const override { return real_->rank(); }
  int size() const override { return real_->size(); }
  Device device() const override { return real_->device(); }
  Event execute(const comm::Call& call) override {
    const bool from_all = call.op == comm::Op::all_gather || call.op == comm::Op::all_to_all;
    ++calls_;
    bytes_ += call.bytes() * (from_all ? size() : 1);
    return real_->execute(call);
  }
  std::unique_ptr<comm::Backend> split(const comm::SplitPlan& plan) override {
    return real_->split(plan);
  }
  std::shared_ptr<Storage> allocate(size_t bytes) override { return real_->allocate(bytes); }
  void abort(const std::string& reason) noexcept override { real_->abort(reason); }

 private:
  const std::unique_ptr<comm::Backend> real_;
  std::atomic<int64_t> calls_{0}, bytes_{0};
};

}  // namespace lockstep::test
