// Attention by cuDNN. A plan depends on shape, device model and version of cuDNN alone, and so do
// the bits.
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "core/base/error.h"
#include "core/base/mutex.h"
#include "core/device/cuda/api.h"
#include "core/device/cuda/attention_library.h"
#include "core/device/cuda/choices.h"
#include "core/device/cuda/plan_folder.h"
#include "core/device/cuda/stream.h"
#include "core/device/cuda/toolkit/cudnn/attention_graph.h"
#include "core/device/cuda/toolkit/cudnn/plan.h"

namespace lockstep::cuda {
namespace {

using cudnn::check_cudnn;

int64_t rounded_up(int64_t bytes) { return (bytes + 255) / 256 * 256; }

// The backward pass keeps delta [B, H, T] in front of cuDNN's own workspace.
int64_t delta_bytes(AttentionPass pass, const AttentionShape& s) {
  if (pass == AttentionPass::forward) return 0;
  return rounded_up(s.batch * s.heads * s.time * int64_t{sizeof(float)});
}

// The kind of device that a plan is for, and the version that made it.
std::string maker(int device) {
  DeviceProperties found;
  check_cuda(api().properties(device, &found), "asking for a device's properties");
  return str("cuDNN ", cudnn::api().version(), ", ", found.name, ", compute capability ",
             found.major, ".", found.minor, ", ", found.multiprocessors, " multiprocessors");
}

cudnn::Plan find_plan(int device, AttentionPass pass, const AttentionShape& shape) {
  const auto description = cudnn::DeviceDescription::of_device(device);
  const std::string key = str(maker(device), ": ", text_of(pass, shape));
  if (const std::optional<std::string> kept = kept_plan(key)) {
    try {
      return cudnn::Plan::read(*kept, description);
    } catch (const cudnn::ShortOfMemory&) {
      throw;
    } catch (const EnvironmentError& e) {
      say_ignored_plan(key, e.what());
    }
  }
  cudnn::Plan plan = cudnn::attention_plan(pass, shape, description);
  keep_plan(key, plan.text());
  return plan;
}

cudnn::Plan make_plan(int device, AttentionPass pass, const AttentionShape& shape) {
  cudnn::Plan plan = find_plan(device, pass, shape);
  record_choice(text_of(pass, shape), str(maker(device), ", plan ", checksum(plan.text()),
                                          ", workspace ", plan.workspace()));
  return plan;
}

// A device's plans; they live as long as the process.
class Attentions {
 public:
  struct Entry {
    std::optional<cudnn::Plan> plan;
    LibraryAnswer answer;
  };

  const Entry& find(int device, AttentionPass pass, const AttentionShape& shape) {
    const MutexLock lock(mutex_);
    std::unique_ptr<Entry>& entry = entries_[{pass, shape}];
    if (!entry) entry = make(device, pass, shape);
    return *entry;
  }

  void execute(const Queue& queue, const cudnn::Plan& plan, const cudnn::Descriptor& arrays) {
    const MutexLock lock(mutex_);
    auto* stream = static_cast<cudaStream_t>(stream_of(queue));
    if (!handle_) check_cudnn(cudnn::api().create(&handle_), "starting");
    check_cudnn(cudnn::api().set_stream(handle_, stream), "choosing a queue");
    check_cudnn(cudnn::api().execute(handle_, plan.descriptor().handle(), arrays.handle()),
                "queueing attention");
  }

 private:
  static std::unique_ptr<Entry> make(int device, AttentionPass pass, const AttentionShape& shape) {
    auto entry = std::make_unique<Entry>();
    if (!cudnn::why_missing().empty()) {
      entry->answer.refusal = cudnn::why_missing();
      return entry;
    }
    try {
      entry->plan = make_plan(device, pass, shape);
      entry->answer.workspace = delta_bytes(pass, shape) + rounded_up(entry->plan->workspace());
    } catch (const cudnn::ShortOfMemory&) {
      // Other kernels would give other bits, in this step alone. The next call asks again.
      throw;
    } catch (const EnvironmentError& e) {
      entry->answer.refusal = e.what();
    }
    return entry;
  }

  Mutex mutex_;
  cudnnHandle_t handle_ LOCKSTEP_GUARDED_BY(mutex_) = nullptr;
  std::map<std::pair<AttentionPass, AttentionShape>, std::unique_ptr<Entry>> entries_
      LOCKSTEP_GUARDED_BY(mutex_);
};

Attentions& attentions_of(int device) {
  static auto* all = new std::map<int, Attentions>;
  static auto* mutex = new Mutex;
  const MutexLock lock(*mutex);
  return (*all)[device];
}

// The memory of each of a graph's ids. Numbers of the host are read when the call is queued.
class Arrays {
 public:
  void add(int64_t id, const void* array) {
    ids_.push_back(id);
    pointers_.push_back(const_cast<void*>(array));
  }
  cudnn::Descriptor finish(void* workspace) const {
    cudnn::Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, ids_.data(), ids_.size());
    pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, pointers_.data(), pointers_.size());
    pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &workspace, 1);
    pack.finalize("naming the arrays of attention");
    return pack;
  }

 private:
  std::vector<int64_t> ids_;
  std::vector<void*> pointers_;
};

}  // namespace

LibraryAnswer ask_library(int device, AttentionPass pass, const AttentionShape& shape) {
  return attentions_of(device).find(device, pass, shape).answer;
}

void run_library(const Queue& queue, AttentionPass pass, const AttentionCall& call,
                 void* workspace) {
  const int device = queue.device().index;
  const AttentionShape shape = shape_of(call.args);
  Attentions& attentions = attentions_of(device);
  const cudnn::Plan& plan = *attentions.find(device, pass, shape).plan;
  const float hidden = -std::numeric_limits<float>::infinity();
  Arrays arrays;
  arrays.add(cudnn::kQ, call.args.q);
  arrays.add(cudnn::kK, call.args.k);
  arrays.add(cudnn::kV, call.args.v);
  arrays.add(cudnn::kOut, call.out);
  arrays.add(cudnn::kLse, call.lse);
  arrays.add(cudnn::kScale, &call.args.scale);
  if (shape.causal) arrays.add(cudnn::kHidden, &hidden);
  auto* own = static_cast<std::byte*>(workspace);
  if (pass == AttentionPass::backward) {
    arrays.add(cudnn::kDelta, own);
    arrays.add(cudnn::kDout, call.dout);
    arrays.add(cudnn::kDq, call.dq);
    arrays.add(cudnn::kDk, call.dk);
    arrays.add(cudnn::kDv, call.dv);
  }
  attentions.execute(queue, plan, arrays.finish(own + delta_bytes(pass, shape)));
}

}  // namespace lockstep::cuda
