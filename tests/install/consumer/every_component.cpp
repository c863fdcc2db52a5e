// Links one symbol of each component, through nothing but installed headers.
#include <cstdio>

#include <checkpoint/checkpoint.h>
#include <comm/process_group.h>
#include <core/tensor/tensor.h>
#include <ddp/ddp.h>
#include <launcher/launch.h>
#include <launcher/rank/rank_env.h>
#include <train/config/config.h>

using namespace lockstep;

int main() {
  const train::Config config =
      train::parse_config("run: {name: consumer}\ndata: {kind: random}\n", "consumer.yaml");
  const auto layout = ddp::make_layout({0, 1}, {64, 64}, 64, 64);
  const bool none = !checkpoint::latest_good("no-such-folder").checkpoint.has_value();
  std::printf("%s %zu %d %d\n", config.run.name.c_str(), layout.size(),
              launcher::threads_per_rank(1), launcher::detect_rank(0, 1).size);
  return none && layout.size() == 2 && Tensor::zeros({2}).numel() == 2 ? 0 : 1;
}
