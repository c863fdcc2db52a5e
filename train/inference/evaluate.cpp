#include "train/inference/evaluate.h"

#include <cmath>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "checkpoint/files/file_system.h"
#include "checkpoint/format/safetensors.h"
#include "core/ops/functions.h"
#include "core/ops/precision.h"
#include "train/data/device_batches.h"
#include "train/run/leaf_sums.h"

namespace lockstep::train {
namespace {

int32_t token_of(int64_t value, const std::string& what) {
  check(value >= 0 && value <= std::numeric_limits<int32_t>::max(), what, ": ", value,
        " is not a token id");
  return static_cast<int32_t>(value);
}

std::vector<int32_t> tokens_of_json(const std::string& text, const std::string& what) {
  nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (json.is_object() && json.contains("input_ids")) json = nlohmann::json(json["input_ids"]);
  check(json.is_array(), what,
        ": expected a JSON list of token ids, or an object with a list 'input_ids'");
  std::vector<int32_t> tokens;
  for (const auto& item : json) {
    check(item.is_number_integer(), what, ": expected token ids, got ", item.dump().substr(0, 60));
    tokens.push_back(token_of(item.get<int64_t>(), what));
  }
  return tokens;
}

std::string json_text(const std::vector<int32_t>& tokens, const TokenEvaluation& evaluation) {
  const int64_t rows = evaluation.logits.size(0);
  nlohmann::json logits = nlohmann::json::array();
  for (int64_t t = 0; t < rows; ++t)
    logits.push_back(evaluation.logits.select(0, t).to_vector<float>());
  return nlohmann::json{{"input_ids", tokens}, {"loss", evaluation.loss}, {"logits", logits}}
             .dump() +
         "\n";
}

}  // namespace

double evaluate_on_data(const SavedModel& model, int64_t batches) {
  if (batches == 0) batches = model.config.train.eval_batches;
  check(batches > 0, "train.eval_batches is 0: set how many batches to evaluate");
  const auto data = open_dataset(model.config);
  DeviceBatches on_device(*data, model.device);
  NoGradGuard no_grad;
  ops::PrecisionScope precision(dtype_of(model.config.train.precision));
  Losses losses(model.device, batches);
  for (int64_t i = 0; i < batches; ++i) {
    const Batch batch = on_device.evaluation(i);
    losses.add(i,
               ops::cross_entropy((*model.module)(Variable(batch.inputs)), batch.targets).data());
  }
  losses.send();
  std::vector<float> values;
  for (const auto& [index, value] : losses.read()) values.push_back(value);
  return static_cast<double>(tree_sum(values)) / static_cast<double>(batches);
}

TokenEvaluation evaluate_tokens(const SavedModel& model, const std::vector<int32_t>& tokens) {
  const ModelConfig& m = model.config.model;
  check(m.is_language_model(), model.folder, " holds a model of kind ", m.kind,
        "; tokens are for gpt and llama");
  const auto count = static_cast<int64_t>(tokens.size());
  check(count >= 1 && count <= m.block, "expected 1 to ", m.block, " tokens (model.block), got ",
        count);
  for (const int32_t token : tokens)
    check(token >= 0 && token < m.vocab, "token ", token, " is outside of the vocabulary of ",
          m.vocab, " (model.vocab)");
  NoGradGuard no_grad;
  ops::PrecisionScope precision(dtype_of(model.config.train.precision));
  const Variable all = (*model.module)(Variable(Tensor::from(tokens, {1, count}, model.device)));
  const Tensor logits = all.data().select(0, 0).to(DType::f32).contiguous();
  TokenEvaluation result{.logits = logits.to(kCpu), .loss = std::nan("")};
  if (count < 2) return result;
  const std::vector<int32_t> targets(tokens.begin() + 1, tokens.end());
  result.loss = ops::cross_entropy(Variable(logits.narrow(0, 0, count - 1)),
                                   Tensor::from(targets, {count - 1}, model.device))
                    .item();
  return result;
}

std::vector<int32_t> parse_token_ids(const std::string& text, const std::string& what) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  check(first != std::string::npos, what, ": no token ids");
  if (text[first] == '[' || text[first] == '{') return tokens_of_json(text, what);
  std::vector<int32_t> tokens;
  for (size_t begin = first; begin != std::string::npos;) {
    const size_t end = text.find_first_of(", \t\r\n", begin);
    const std::string word = text.substr(begin, end == std::string::npos ? end : end - begin);
    check(!word.empty() && word.size() <= 10 &&
              word.find_first_not_of("0123456789") == std::string::npos,
          what, ": '", word.substr(0, 60), "' is not a token id");
    tokens.push_back(token_of(std::stoll(word), what));
    begin = text.find_first_not_of(", \t\r\n", end);
  }
  return tokens;
}

void write_logits(const std::string& path, const std::vector<int32_t>& tokens,
                  const TokenEvaluation& evaluation) {
  check(!std::filesystem::exists(path), "'", path, "' exists: nothing is written over");
  if (path.ends_with(".json"))
    return checkpoint::write_whole_file(path, json_text(tokens, evaluation));
  const Tensor ids = Tensor::from(tokens, {static_cast<int64_t>(tokens.size())});
  checkpoint::SafetensorsHeader header;
  header.tensors = {{"input_ids", "I32", ids.shape(), 0, 0},
                    {"logits", "F32", evaluation.logits.shape(), 0, 0}};
  const std::string start = checkpoint::make_safetensors_header(header);
  checkpoint::write_whole_file(path, [&](const std::string& aside) {
    checkpoint::write_safetensors(checkpoint::posix_file_system(), aside, start,
                                  {ids, evaluation.logits});
  });
}

}  // namespace lockstep::train
