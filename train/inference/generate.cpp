#include "train/inference/generate.h"

#include <algorithm>
#include <cmath>

#include "core/base/philox.h"
#include "core/nn/random.h"
#include "train/run/saved_model.h"

namespace lockstep::train {
namespace {

// Draws from softmax(logits / temperature). `uniform` is in [0, 1).
int32_t sample(std::span<const float> logits, double temperature, float uniform) {
  const auto likeliest = std::max_element(logits.begin(), logits.end());
  if (temperature <= 0) return static_cast<int32_t>(likeliest - logits.begin());
  std::vector<double> weights;
  double total = 0;
  for (float logit : logits) {
    weights.push_back(
        std::exp((static_cast<double>(logit) - static_cast<double>(*likeliest)) / temperature));
    total += weights.back();
  }
  double left = static_cast<double>(uniform) * total;
  for (size_t i = 0; i < weights.size(); ++i)
    if ((left -= weights[i]) < 0) return static_cast<int32_t>(i);
  return static_cast<int32_t>(logits.size()) - 1;
}

}  // namespace

void generate(const std::string& checkpoint, const GenerateOptions& options,
              const std::function<void(const std::string&)>& emit) {
  check(!options.prompt.empty(), "the prompt is empty; give at least one character with --prompt");
  check(options.temperature >= 0 && std::isfinite(options.temperature),
        "the temperature must be 0 or a positive number, got ", options.temperature);
  std::vector<std::string> overrides;
  if (!options.device.empty()) overrides.push_back("device=" + options.device);
  const SavedModel saved = load_model(checkpoint, overrides);
  const ModelConfig& model = saved.config.model;
  check(model.is_language_model(), saved.folder, " holds a model of kind ", model.kind,
        "; only gpt and llama generate text");

  NoGradGuard no_grad;
  std::vector<int32_t> tokens;
  for (const char c : options.prompt) {
    tokens.push_back(static_cast<uint8_t>(c));
    check(tokens.back() < model.vocab, "the prompt holds the byte ", tokens.back(),
          ", which is outside of the vocabulary of ", model.vocab, " (model.vocab)");
  }
  emit(options.prompt);
  for (int64_t i = 0; i < options.tokens; ++i) {
    const auto length = std::min<int64_t>(static_cast<int64_t>(tokens.size()), model.block);
    const std::vector<int32_t> window(tokens.end() - length, tokens.end());
    const Variable logits =
        (*saved.module)(Variable(Tensor::from(window, {1, length}, saved.device)));
    auto last = logits.data().select(0, 0).select(0, length - 1).to_vector<float>();
    // If model.vocab is larger, the tokens above 255 are not bytes.
    last.resize(std::min<size_t>(last.size(), 256));
    const RandomKey key{.seed = options.seed, .site = nn::site_of("generate")};
    tokens.push_back(sample(last, options.temperature,
                            uniform_from_bits(philox(key, static_cast<uint32_t>(i))[0])));
    emit(std::string(1, static_cast<char>(tokens.back())));
  }
}

}  // namespace lockstep::train
