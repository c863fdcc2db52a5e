#include "checkpoint/save/plan.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <set>
#include <sstream>

#include "checkpoint/format/chunks.h"
#include "core/base/error.h"

namespace lockstep::checkpoint {
namespace {

struct Held {
  ShardSpec shard;
  std::vector<size_t> ranks;  // the ranks that hold it
};
struct Global {
  DType dtype = DType::f32;
  Shape shape;
  size_t first_rank = 0;
  size_t last_rank = 0;  // the last rank plus one
  std::vector<Held> pieces;
};

Global& find_global(std::map<std::string, Global>& globals, const Part& part, size_t rank) {
  const auto [it, added] =
      globals.try_emplace(part.name, Global{part.dtype, part.shard.global_shape(), rank, 0, {}});
  Global& global = it->second;
  check(global.dtype == part.dtype && global.shape == part.shard.global_shape(), "[checkpoint] '",
        part.name, "' is ", global.dtype, global.shape, " on rank ", global.first_rank, " and ",
        part.dtype, part.shard.global_shape(), " on rank ", rank);
  return global;
}

std::map<std::string, Global> collect(const std::vector<std::vector<Part>>& held) {
  std::map<std::string, Global> globals;
  for (size_t rank = 0; rank < held.size(); ++rank)
    for (const Part& part : held[rank]) {
      Global& global = find_global(globals, part, rank);
      check(global.last_rank != rank + 1, "[checkpoint] '", part.name, "' is there twice on rank ",
            rank);
      global.last_rank = rank + 1;
      if (part.shard.length() == 0) continue;
      const auto same = [&](const Held& h) { return h.shard == part.shard; };
      const auto found = std::find_if(global.pieces.begin(), global.pieces.end(), same);
      if (found != global.pieces.end()) {
        found->ranks.push_back(rank);
      } else {
        global.pieces.push_back({part.shard, {rank}});
      }
    }
  return globals;
}

void check_coverage(const std::string& name, Global& global) {
  std::sort(global.pieces.begin(), global.pieces.end(),
            [](const Held& a, const Held& b) { return a.shard.offset() < b.shard.offset(); });
  std::vector<ShardSpec> shards;
  for (const Held& piece : global.pieces) shards.push_back(piece.shard);
  const std::optional<CoverFault> fault = find_cover_fault(global.shape, shards);
  if (!fault) return;
  const std::string element = str("element ", fault->element, ", index ",
                                  index_text(global.shape, fault->element), ", of ", global.shape);
  check(!fault->holders.empty(), "[checkpoint] '", name, "': no rank holds ", element,
        "; the ranks' parts must make up the whole tensor");
  const Held &one = global.pieces[fault->holders[0]], &other = global.pieces[fault->holders[1]];
  throw UsageError(str("[checkpoint] '", name, "': parts overlap: ranks ", one.ranks[0], " and ",
                       other.ranks[0], " hold ", element, ", rank ", one.ranks[0], " as one of ",
                       one.shard, " and rank ", other.ranks[0], " as one of ", other.shard,
                       "; parts must be equal or have no element in common"));
}

int64_t bytes_of(const Part& part) { return part.shard.length() * size_of(part.dtype); }
int64_t bytes_of(const std::vector<Part>& parts) {
  int64_t bytes = 0;
  for (const Part& part : parts) bytes += bytes_of(part);
  return bytes;
}

struct Planned {
  Part part;
  const std::vector<size_t>* holders;
};

// Cuts are made at multiples of this many elements: a whole chunk of a run, or about as much of a
// box.
int64_t cut_unit(const Part& part) {
  const int64_t unit = part.shard.cut_unit(), per_chunk = kChunkBytes / size_of(part.dtype);
  return (per_chunk + unit - 1) / unit * unit;
}

// Cuts a piece that several ranks hold and that exceeds a fair share among these ranks.
void cut(const std::string& name, const Global& global, const Held& piece, int64_t fair,
         std::vector<Planned>& work) {
  const Part whole{name, global.dtype, piece.shard};
  const int64_t unit = cut_unit(whole), bytes = bytes_of(whole), length = piece.shard.length();
  const int64_t cuts =
      bytes <= kChunkBytes
          ? 1
          : std::min<int64_t>(static_cast<int64_t>(piece.ranks.size()), (bytes + fair - 1) / fair);
  for (int64_t i = 0, begin = 0; i < cuts; ++i) {
    const int64_t end = i + 1 == cuts ? length : length * (i + 1) / cuts / unit * unit;
    if (begin < end)
      work.push_back({{name, global.dtype, piece.shard.cut(begin, end)}, &piece.ranks});
    begin = end;
  }
}

// Returns the parts that each rank writes, the largest first.
std::vector<std::vector<Part>> deal_out(std::vector<Planned> work, size_t ranks) {
  // Large parts go first; the small ones then even out the loads.
  std::stable_sort(work.begin(), work.end(), [](const Planned& a, const Planned& b) {
    return bytes_of(a.part) > bytes_of(b.part);
  });
  std::vector<std::vector<Part>> by_rank(ranks);
  std::vector<int64_t> load(ranks, 0);
  std::set<std::pair<std::string, size_t>> taken;  // a file holds at most one part of each tensor
  for (Planned& planned : work) {
    const auto lighter = [&](size_t a, size_t b) {
      const bool taken_a = taken.count({planned.part.name, a}) != 0,
                 taken_b = taken.count({planned.part.name, b}) != 0;
      return taken_a != taken_b ? taken_b : load[a] < load[b];
    };
    const size_t rank =
        *std::min_element(planned.holders->begin(), planned.holders->end(), lighter);
    load[rank] += bytes_of(planned.part);
    taken.emplace(planned.part.name, rank);
    by_rank[rank].push_back(std::move(planned.part));
  }
  return by_rank;
}

// Splits a rank's parts (the largest first) between two files. Whole parts are shared out to give
// about equal bytes; then one is cut to even them out, a run at a chunk boundary. The second file
// stays empty if nothing can be cut.
std::array<std::vector<Part>, 2> halve(std::vector<Part> parts) {
  std::array<std::vector<Part>, 2> halves;
  std::array<int64_t, 2> load = {0, 0};
  for (Part& part : parts) {
    const size_t lighter = load[1] < load[0] ? 1 : 0;
    load[lighter] += bytes_of(part);
    halves[lighter].push_back(std::move(part));
  }
  const size_t heavier = load[1] > load[0] ? 1 : 0;
  // Its last part made this file heavier, so that part is at least as large as the difference.
  Part& last = halves[heavier].back();
  const int64_t unit = cut_unit(last), unit_bytes = unit * size_of(last.dtype);
  const int64_t ideal = bytes_of(last) - (load[heavier] - load[1 - heavier]) / 2;
  const int64_t keep = (ideal + unit_bytes - 1) / unit_bytes * unit;
  if (keep >= last.shard.length()) return halves;
  const ShardSpec all = last.shard;
  last.shard = all.cut(0, keep);
  halves[1 - heavier].push_back({last.name, last.dtype, all.cut(keep, all.length())});
  return halves;
}

constexpr int64_t kBox = -1;  // in place of an offset: a box follows the shape

void write_dims(std::ostream& out, const Shape& dims) {
  for (const int64_t dim : dims) out << ' ' << dim;
}

Shape read_dims(std::istream& in, int count) {
  Shape dims;
  for (int64_t dim; count > 0 && in >> dim; --count) dims.push_back(dim);
  return dims;
}

}  // namespace

std::string parts_text(const std::vector<Part>& parts) {
  std::ostringstream out;
  for (const Part& part : parts) {
    check(!part.name.empty() && part.name.find('\n') == std::string::npos, "[checkpoint] '",
          part.name, "' cannot be the name of a tensor");
    const ShardSpec& shard = part.shard;
    out << static_cast<int>(part.dtype) << ' ' << (shard.is_box() ? kBox : shard.offset()) << ' '
        << shard.length() << ' ' << shard.global_shape().size();
    write_dims(out, shard.global_shape());
    if (shard.is_box()) {
      write_dims(out, shard.offsets());
      write_dims(out, shard.lengths());
    }
    out << ' ' << part.name << '\n';
  }
  return out.str();
}

namespace {

Part parse_part(const std::string& line) {
  std::istringstream in(line);
  int dtype = 0, dims = 0;
  int64_t offset = 0, length = 0;
  in >> dtype >> offset >> length >> dims;
  const Shape shape = read_dims(in, dims);
  Part part;
  part.dtype = static_cast<DType>(dtype);
  if (offset == kBox) {
    const Shape offsets = read_dims(in, dims), lengths = read_dims(in, dims);
    part.shard = ShardSpec::box(shape, offsets, lengths);
  } else {
    part.shard = ShardSpec(shape, offset, length);
  }
  in.get();
  std::getline(in, part.name);
  check(!in.fail() && part.shard.length() == length, "not a part");
  return part;
}

}  // namespace

std::vector<Part> parse_parts(std::string_view text) {
  std::vector<Part> parts;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) try {
      parts.push_back(parse_part(line));
    } catch (const UsageError&) {
      throw EnvironmentError(
          str("[checkpoint] another rank sent an unreadable part: '", line, "'"));
    }
  return parts;
}

std::vector<size_t> Plan::files_of(int64_t rank) const {
  std::vector<size_t> indices;
  for (size_t i = 0; i < files.size(); ++i)
    if (files[i].rank == rank) indices.push_back(i);
  return indices;
}

std::vector<Part> Plan::parts_of(int64_t rank) const {
  std::vector<Part> parts;
  for (const size_t file : files_of(rank))
    parts.insert(parts.end(), files[file].parts.begin(), files[file].parts.end());
  return parts;
}

Plan make_plan(const std::vector<std::vector<Part>>& held, int64_t two_files_above) {
  auto globals = collect(held);
  std::vector<Planned> work;
  int64_t total = 0;
  for (auto& [name, global] : globals) {
    check_coverage(name, global);
    total += global.shape.numel() * size_of(global.dtype);
  }
  const int64_t fair = total / static_cast<int64_t>(held.size()) + 1;
  for (const auto& [name, global] : globals)
    for (const Held& piece : global.pieces) cut(name, global, piece, fair, work);
  Plan plan{.ranks = static_cast<int64_t>(held.size()), .version = Manifest::kVersion};
  auto by_rank = deal_out(std::move(work), held.size());
  for (int64_t rank = 0; rank < plan.ranks; ++rank) {
    auto& parts = by_rank[static_cast<size_t>(rank)];
    if (parts.empty() || bytes_of(parts) <= two_files_above) {
      plan.files.push_back({rank, std::move(parts)});
      continue;
    }
    for (auto& half : halve(std::move(parts)))
      if (!half.empty()) plan.files.push_back({rank, std::move(half)});
  }
  for (const PlannedFile& file : plan.files)
    for (const Part& part : file.parts)
      if (part.shard.is_box()) plan.version = Manifest::kBoxVersion;
  return plan;
}

std::string shard_name(size_t file, size_t files) {
  char name[64];
  std::snprintf(name, sizeof name, "shard-%05zu-of-%05zu.safetensors", file, files);
  return name;
}

ShardLayout lay_out_shard(const Plan& plan, size_t file, int64_t step) {
  const auto& [rank, parts] = plan.files[file];
  ShardLayout layout;
  auto& metadata = layout.header.metadata;
  metadata = {{"format", "lockstep-checkpoint"},
              {"version", std::to_string(plan.version)},
              {"step", std::to_string(step)},
              {"rank", std::to_string(rank)},
              {"world_size", std::to_string(plan.ranks)}};
  for (const Part& part : parts) {
    if (!part.shard.is_whole()) metadata.add("shard." + part.name, place_text(part.shard));
    layout.header.tensors.push_back({.name = part.name,
                                     .dtype = safetensors_dtype(part.dtype),
                                     .shape = part.shard.shape(),
                                     .begin = 0,
                                     .bytes = 0});
  }
  layout.bytes = make_safetensors_header(layout.header);
  layout.file_bytes = static_cast<int64_t>(layout.bytes.size());
  for (const SafetensorsInfo info : layout.header.tensors) layout.file_bytes += info.bytes;
  return layout;
}

int64_t planned_bytes(const Plan& plan) {
  constexpr int64_t kPerPart = 1024, kPerChunk = 16;
  int64_t bytes = 1 << 16;
  for (const PlannedFile& file : plan.files)
    for (const Part& part : file.parts) {
      const int64_t data = bytes_of(part);
      bytes += data + kPerPart + kPerChunk * chunk_count(data);
    }
  return bytes;
}

std::string written_text(const std::vector<WrittenFile>& files) {
  std::string text;
  for (const WrittenFile& file : files) {
    text += str(file.bytes, ' ', file.sha256, ' ', hex_of(file.header_xxh3));
    for (const auto& sums : file.xxh3) text += ' ' + hex_of(sums);
    text += '\n';
  }
  return text;
}

std::vector<WrittenFile> parse_written(std::string_view text) {
  std::vector<WrittenFile> files;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream in(line);
    WrittenFile& file = files.emplace_back();
    std::string header, word;
    std::vector<uint64_t> sums;
    bool good =
        static_cast<bool>(in >> file.bytes >> file.sha256 >> header) && parse_sums(header, 1, sums);
    if (good) file.header_xxh3 = sums[0];
    while (good && in >> word)
      good = parse_sums(word, static_cast<int64_t>(word.size() / 16), file.xxh3.emplace_back());
    if (!good)
      throw EnvironmentError(
          str("[checkpoint] another rank sent an unreadable report: '", line.substr(0, 100), "'"));
  }
  return files;
}

namespace {

// Adds one file to the manifest, as its rank wrote it.
void add_file(Manifest& manifest, const Plan& plan, size_t file, const WrittenFile& written,
              int64_t step) {
  const ShardLayout layout = lay_out_shard(plan, file, step);
  const auto& tensors = layout.header.tensors;
  const std::string name = shard_name(file, plan.files.size());
  if (layout.file_bytes != written.bytes || written.xxh3.size() != tensors.size())
    throw EnvironmentError(str("[checkpoint] rank ", plan.files[file].rank, " wrote ",
                               written.bytes, " bytes in ", written.xxh3.size(), " tensors to '",
                               name, "', expected ", layout.file_bytes, " in ", tensors.size()));
  manifest.files.push_back({.name = name,
                            .bytes = written.bytes,
                            .sha256 = written.sha256,
                            .header_bytes = static_cast<int64_t>(layout.bytes.size()),
                            .header_xxh3 = written.header_xxh3});
  std::map<std::string_view, size_t> order;
  for (size_t i = 0; i < tensors.size(); ++i) order[tensors[i].name] = i;
  for (const Part& part : plan.files[file].parts) {
    const size_t i = order.at(part.name);
    manifest.entries[part.name].pieces.push_back({.file = static_cast<int64_t>(file),
                                                  .begin = tensors[i].begin,
                                                  .part = part.shard,
                                                  .xxh3 = written.xxh3[i]});
  }
}

}  // namespace

Manifest make_manifest(const Plan& plan, const std::vector<std::vector<Part>>& held,
                       const std::vector<WrittenFile>& files, int64_t step) {
  if (files.size() != plan.files.size())
    throw EnvironmentError(
        str("[checkpoint] the ranks wrote ", files.size(), " files, expected ", plan.files.size()));
  Manifest manifest;
  manifest.version = plan.version;
  manifest.step = step;
  manifest.world_size = plan.ranks;
  for (const auto& parts : held)
    for (const Part& part : parts)
      manifest.entries.try_emplace(part.name,
                                   ManifestEntry{part.dtype, part.shard.global_shape(), {}});
  for (size_t file = 0; file < files.size(); ++file)
    add_file(manifest, plan, file, files[file], step);
  for (auto& [name, entry] : manifest.entries)
    std::sort(entry.pieces.begin(), entry.pieces.end(),
              [](const Piece& a, const Piece& b) { return a.part.offset() < b.part.offset(); });
  return manifest;
}

}  // namespace lockstep::checkpoint
