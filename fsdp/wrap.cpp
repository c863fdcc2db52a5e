#include "fsdp/wrap.h"

#include <algorithm>
#include <map>
#include <typeinfo>

namespace lockstep::fsdp {
namespace {

constexpr size_t kRoot = 0;

// The usual container of blocks has two or more children, all of the same type.
bool holds_blocks(const nn::Module& module) {
  const auto& children = module.children();
  if (children.size() < 2) return false;
  const nn::Module& first = *children[0].second;
  return std::all_of(children.begin(), children.end(), [&](const auto& child) {
    const nn::Module& other = *child.second;
    return typeid(other) == typeid(first);
  });
}

class Planner {
 public:
  explicit Planner(const std::function<bool(const nn::Module&)>& wrap) : wrap_(wrap) {}

  std::vector<UnitPlan> run(nn::Module& root) {
    add_unit(root, kRoot);
    visit(root, kRoot, false);
    for (const Parameter& parameter : root.parameters())
      units_[owners_.at(parameter.impl().get())].parameters.push_back(parameter);
    std::vector<UnitPlan> kept;
    for (UnitPlan& unit : units_)
      if (kept.empty() || !unit.parameters.empty()) kept.push_back(std::move(unit));
    return kept;
  }

 private:
  void add_unit(nn::Module& module, size_t parent) {
    units_.push_back({.module = &module, .name = units_.empty() ? "root" : module.path()});
    parents_.push_back(parent);
  }

  // `is_block`: this module is one of several blocks in its parent.
  void visit(nn::Module& module, size_t unit, bool is_block) {
    if (&module != units_[kRoot].module) {
      if (const auto known = unit_of_.find(&module); known != unit_of_.end()) {
        parents_[known->second] = common_ancestor(parents_[known->second], unit);
        unit = known->second;  // registered several times
      } else if (wrap_ ? wrap_(module) : is_block) {
        add_unit(module, unit);
        unit = units_.size() - 1;
        unit_of_[&module] = unit;
      }
    }
    for (const Parameter& parameter : module.own_parameters()) claim(parameter, unit);
    // Without a rule, everything inside a block belongs to that block.
    const bool blocks_below = !wrap_ && unit == kRoot && holds_blocks(module);
    for (const auto& [name, child] : module.children()) visit(*child, unit, blocks_below);
  }

  void claim(const Parameter& parameter, size_t unit) {
    const auto [at, is_new] = owners_.try_emplace(parameter.impl().get(), unit);
    if (!is_new) at->second = common_ancestor(at->second, unit);
  }

  // Units are numbered from the root down, so a parent's number is below those of its children.
  size_t common_ancestor(size_t a, size_t b) const {
    while (a != b) (a > b ? a : b) = parents_[std::max(a, b)];
    return a;
  }

  const std::function<bool(const nn::Module&)>& wrap_;
  std::vector<UnitPlan> units_;
  std::vector<size_t> parents_;
  std::map<const nn::Module*, size_t> unit_of_;
  std::map<const void*, size_t> owners_;
};

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == at)
      parts.emplace_back();
    else if (c != ' ')
      parts.back() += c;
  }
  return parts;
}

bool matches(const std::vector<std::string>& pattern, const std::string& path) {
  const auto names = split(path, '.');
  return std::equal(
      pattern.begin(), pattern.end(), names.begin(), names.end(),
      [](const std::string& p, const std::string& name) { return p == "*" || p == name; });
}

bool any_module(const nn::Module& module, const std::function<bool(const nn::Module&)>& is) {
  return std::any_of(module.children().begin(), module.children().end(), [&](const auto& child) {
    return is(*child.second) || any_module(*child.second, is);
  });
}

}  // namespace

std::function<bool(const nn::Module&)> wrap_rule(const std::string& words, const nn::Module& root) {
  if (words == "blocks") return {};
  if (words == "none") return [](const nn::Module&) { return false; };
  std::vector<std::vector<std::string>> patterns;
  for (const std::string& text : split(words, ',')) {
    patterns.push_back(split(text, '.'));
    const auto is = [&](const nn::Module& module) {
      return matches(patterns.back(), module.path());
    };
    if (any_module(root, is)) continue;
    std::string known;
    for (const auto& [name, child] : root.children()) known += (known.empty() ? "" : ", ") + name;
    throw UsageError(
        str("no module has the path '", text,
            "': expected blocks, none or paths such as 'blocks.*'; the model consists of ",
            known.empty() ? "one module" : known));
  }
  return [patterns](const nn::Module& module) {
    return std::any_of(patterns.begin(), patterns.end(),
                       [&](const auto& pattern) { return matches(pattern, module.path()); });
  };
}

std::vector<UnitPlan> plan_units(nn::Module& root,
                                 const std::function<bool(const nn::Module&)>& wrap) {
  return Planner(wrap).run(root);
}

}  // namespace lockstep::fsdp
