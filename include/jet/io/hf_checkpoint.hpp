/// \file
/// Checkpoints in the layout of Hugging Face as weights of a model type, in and out: config.json beside
/// model.safetensors or its shards.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <jet/core/arena.hpp>
#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/io/atomic_file.hpp>
#include <jet/io/checkpoint_files.hpp>
#include <jet/io/hf_config.hpp>
#include <jet/io/json.hpp>
#include <jet/io/safetensors.hpp>
#include <jet/model/engine.hpp>
#include <jet/model/weights.hpp>

JET_NAMESPACE_BEGIN

inline constexpr std::string_view config_file_name = "config.json";

/// How weights are loaded.
///   map            tensors whose dtype in the file is the one in memory stay where the file is mapped, read-only;
///                  false: everything is copied, to huge pages where there are (decode is then 6 to 9% faster), and
///                  may be written (training)
///   plan           of letters, one per layer; empty: the model's own
///   ignore_config  config.json is not read; the tensors still have to fit
struct LoadOptions {
  bool map = true;
  std::string plan{};
  bool ignore_config = false;
};

/// How weights are saved.
///   plan             of letters; empty: the letters that the store holds, if that is one per layer
///   dtype            of all tensors but those marked keep_f32, which are at least f32. none: matrices as they are
///                    stored, other tensors in the embedding's dtype where that loses nothing, else as stored
///   max_shard_bytes  data of a file beyond which there are several
///   extra            a config of which keys that do not say what the model is are taken over (config_of)
struct SaveOptions {
  std::string plan{};
  DType dtype = DType::none;
  i64 max_shard_bytes = 5'000'000'000;
  Json extra{};
};

namespace detail {

constexpr bool is_floating(DType type) {
  return type == DType::f64 || type == DType::f32 || type == DType::bf16 || type == DType::f16;
}

/// Calls f.template operator()<T>() for a floating dtype.
template <class F> decltype(auto) with_floating(DType type, F&& f) {
  switch (type) {
    case DType::f64: return f.template operator()<double>();
    case DType::f32: return f.template operator()<float>();
    case DType::bf16: return f.template operator()<bf16>();
    case DType::f16: return f.template operator()<f16>();
    default: fail("a tensor of ", name_of(type), " cannot be converted");
  }
}

/// What is lost in a conversion: nothing, precision, or finite values that became infinite.
enum class Loss : std::uint8_t { none, rounding, overflow };

/// Converts n elements, neither side necessarily aligned. Without `to` it only tells the loss.
inline Loss convert(DType from_type, std::byte const* from, DType to_type, std::byte* to, i64 n) {
  return with_floating(from_type, [&]<class From>() {
    return with_floating(to_type, [&]<class To>() {
      using Wide = std::conditional_t<std::is_same_v<From, double> || std::is_same_v<To, double>, double, float>;
      constexpr bool is_exact = std::is_same_v<From, To> || sizeof(From) < sizeof(To);
      unsigned rounded = 0;
      unsigned overflowed = 0;
      for (i64 i = 0; i < n; ++i) {
        From in;
        std::memcpy(&in, from + i * static_cast<i64>(sizeof in), sizeof in);
        auto const value = static_cast<Wide>(in);
        auto const out = static_cast<To>(value);
        if constexpr (!is_exact) {
          auto const back = static_cast<Wide>(out);
          rounded |= static_cast<unsigned>(back != value) & static_cast<unsigned>(value == value);
          overflowed |= static_cast<unsigned>(std::isfinite(value)) & static_cast<unsigned>(!std::isfinite(back));
        }
        if (to != nullptr) {
          std::memcpy(to + i * static_cast<i64>(sizeof out), &out, sizeof out);
        }
      }
      return overflowed != 0 ? Loss::overflow : rounded != 0 ? Loss::rounding : Loss::none;
    });
  });
}

inline std::vector<i64> extents(Shape const& shape) {
  return std::vector<i64>(shape.extent, shape.extent + shape.rank);
}

/// Whether two tensors of one shape hold the same numbers.
inline bool same_numbers(SafetensorsTensor const& a, SafetensorsTensor const& b) {
  if (a.dtype == b.dtype) {
    return std::memcmp(a.data, b.data, static_cast<std::size_t>(a.bytes)) == 0;
  }
  i64 const n = a.bytes / size_of(a.dtype);
  constexpr i64 piece = 4096;
  std::vector<double> x(piece), y(piece);
  for (i64 at = 0; at < n; at += piece) {
    i64 const count = std::min(piece, n - at);
    auto const widen = [&](SafetensorsTensor const& tensor, std::vector<double>& out) {
      convert(tensor.dtype, tensor.data + at * size_of(tensor.dtype), DType::f64,
              reinterpret_cast<std::byte*>(out.data()), count);
    };
    widen(a, x);
    widen(b, y);
    if (!std::equal(x.begin(), x.begin() + count, y.begin())) {
      return false;
    }
  }
  return true;
}

/// Buffers that older checkpoints hold and that are computed from the config.
inline bool is_derived_buffer(std::string_view name) {
  return name.ends_with(".rotary_emb.inv_freq");
}

/// What is wrong with the tensors of a checkpoint, all of it in one error.
class TensorProblems {
 public:
  void missing(std::string_view name, std::vector<i64> const& shape) {
    add("missing: ", name, ": expected shape ", shape_text(shape));
  }
  void unexpected(CheckpointTensor const& tensor) {
    add("not part of the model: ", printable(tensor.name), ": found ", tensor.file_dtype, " ",
        shape_text(tensor.shape));
  }
  /// Whether the tensor can be used for `shape`.
  bool check(CheckpointTensor const& tensor, std::vector<i64> const& shape) {
    bool const has_shape = tensor.shape == shape;
    bool const has_type = is_floating(tensor.dtype);
    if (!has_shape) {
      add("wrong shape: ", tensor.name, ": expected ", shape_text(shape), ", found ", shape_text(tensor.shape));
    }
    if (!has_type) {
      add("wrong dtype: ", tensor.name, ": expected F64, F32, BF16 or F16, found ", tensor.file_dtype);
    }
    return has_shape && has_type;
  }
  template <class... Parts> void add(Parts const&... parts) { lines_.push_back(concat("\n  ", parts...)); }

  void throw_if_any(std::string_view where) const {
    if (lines_.empty()) {
      return;
    }
    std::string text;
    for (std::string const& line : lines_) {
      text += line;
    }
    fail(where, ": the tensors do not fit the model type:", text);
  }

 private:
  std::vector<std::string> lines_;
};

/// The plan of a store with one letter per layer.
template <class Model> std::string only_plan(Weights<Model> const& weights) {
  std::string plan;
  for (std::string const& letters : weights.letters()) {
    JET_CHECK(letters.size() == 1, "save: layer ", plan.size(), " of the store holds the letters \"", letters,
              "\"; say which to save with the option plan");
    plan += letters;
  }
  return plan;
}

}  // namespace detail

/// The weights of a checkpoint directory for a backend with policy `p`, in host memory. The store holds the letters
/// of one plan.
///
/// config.json is compared with the type; then every tensor must be used exactly once: missing tensors, tensors
/// that are not part of the model, and wrong shapes and dtypes are all listed in one error. A tied model's file may
/// hold the head too, if it equals the embedding; `*.rotary_emb.inv_freq` is ignored. Tensors are converted to
/// param_dtype(p, row) where the file has another dtype; a finite value that does not fit is an error. Throws
/// jet::Error.
template <class Model>
std::shared_ptr<Weights<Model>> load_weights(std::filesystem::path const& directory, Precision const& p,
                                             LoadOptions const& options = {}) {
  std::string const plan = options.plan.empty() ? std::string(Model::plan()) : options.plan;
  auto weights = std::make_shared<Weights<Model>>(plan);
  if (!options.ignore_config) {
    std::filesystem::path const path = directory / config_file_name;
    check_config<Model>(load_config(path), path.string(), plan);
  }
  CheckpointFiles const files(directory);

  std::vector<CheckpointTensor const*> tensors;  // in the order of the visit; null for one that cannot be used
  std::set<std::string> used;
  detail::TensorProblems problems;
  weights->visit([&](TensorKey const& key, Slot&) {
    std::string const name = Model::names::key(key.module, key.layer, key.spec.name);
    std::vector<i64> const shape = detail::extents(key.spec.shape);
    CheckpointTensor const* const tensor = files.find(name);
    used.insert(name);
    if (tensor == nullptr) {
      problems.missing(name, shape);
    }
    bool const fits = tensor != nullptr && problems.check(*tensor, shape);
    tensors.push_back(fits ? tensor : nullptr);
  });
  std::string const head_name = Model::names::key(Module::head, -1, "weight");
  for (auto const& [name, tensor] : files.tensors()) {
    if (used.find(name) != used.end() || detail::is_derived_buffer(name)) {
      continue;
    }
    if (!Model::config.tied || name != head_name) {
      problems.unexpected(tensor);
      continue;
    }
    CheckpointTensor const* const embedding = tensors.front();
    if (embedding != nullptr && problems.check(tensor, embedding->shape) &&
        !detail::same_numbers(tensor, *embedding)) {
      problems.add("not tied: ", name, " differs from ", embedding->name,
                   ", which the model type uses as its head; use an untied type (LmConfig::tied = false)");
    }
  }
  problems.throw_if_any(directory.string());

  auto const stays = [&](CheckpointTensor const& tensor, DType type) {
    return options.map && tensor.dtype == type &&
           reinterpret_cast<std::uintptr_t>(tensor.data) % static_cast<std::uintptr_t>(size_of(type)) == 0;
  };
  i64 copied = 0;
  std::size_t at = 0;
  weights->visit([&](TensorKey const& key, Slot&) {
    DType const type = param_dtype(p, key.spec);
    copied += stays(*tensors[at++], type) ? 0 : align_up(key.spec.shape.numel() * size_of(type));
  });
  auto const buffer = std::make_shared<HostBuffer>(copied);
  std::map<std::shared_ptr<SafetensorsFile const>, i64> mapped;
  std::byte* memory = buffer->data();
  at = 0;
  weights->visit([&](TensorKey const& key, Slot& slot) {
    CheckpointTensor const& tensor = *tensors[at++];
    DType const type = param_dtype(p, key.spec);
    if (stays(tensor, type)) {
      // const_cast: slots of parameters are not const; kernels of a forward only read them
      slot = Slot(const_cast<std::byte*>(tensor.data), type, key.spec.shape);
      mapped[tensor.shard] += tensor.bytes;
      return;
    }
    i64 const n = key.spec.shape.numel();
    detail::Loss const loss = detail::convert(tensor.dtype, tensor.data, type, memory, n);
    JET_CHECK(loss != detail::Loss::overflow, tensor.shard->what(), ": tensor ", detail::in_quotes(tensor.name),
              ": a value of ", tensor.file_dtype, " is too large for ", name_of(type));
    slot = Slot(memory, type, key.spec.shape);
    memory += align_up(n * size_of(type));
  });
  if (copied > 0) {
    weights->own(buffer, copied);
  }
  for (auto const& [shard, bytes] : mapped) {
    weights->own(shard, bytes);
  }
  weights->tie();
  return weights;
}

/// A checkpoint directory as a model that runs on backend B. A plan given in either options is loaded and run.
/// Errors as load_weights and the engine's constructor.
template <class Model, class B>
Engine<Model, B> load(std::filesystem::path const& directory, EngineOptions options = {},
                      LoadOptions load_options = {}) {
  if (load_options.plan.empty()) {
    load_options.plan = options.plan;
  }
  if (options.plan.empty()) {
    options.plan = load_options.plan;
  }
  return Engine<Model, B>(load_weights<Model>(directory, precision_of<B>, load_options), options);
}

/// Saves weights that lie in host memory as a checkpoint directory: config.json (config_of) and the weight files
/// (save_checkpoint). A tied head is not written.
///
/// Everything is written under temporary names first; then the weights become current in one step, and the config
/// in the next. After an error before these steps nothing has changed; an interruption between them leaves complete
/// weights with the earlier config. Throws jet::Error, for a finite value that the dtype cannot hold too.
template <class Model>
void save(Weights<Model>& weights, std::filesystem::path const& directory, SaveOptions const& options = {}) {
  std::string const plan = options.plan.empty() ? detail::only_plan(weights) : options.plan;
  weights.check_plan(plan);
  JET_CHECK(options.dtype == DType::none || detail::is_floating(options.dtype),
            "save: option dtype: expected f64, f32, bf16 or f16, found ", name_of(options.dtype));
  DType const common = options.dtype != DType::none ? options.dtype : weights.embedding.dtype;

  std::vector<SafetensorsSource> sources;
  weights.visit(
      [&](TensorKey const& key, Slot& slot) {
        std::string const name = Model::names::key(key.module, key.layer, key.spec.name);
        JET_CHECK(static_cast<bool>(slot) && detail::is_floating(slot.dtype), "save: tensor ",
                  detail::in_quotes(name), ": expected memory of a floating dtype, found ",
                  slot ? name_of(slot.dtype) : "no memory");
        i64 const n = slot.numel();
        auto const* const data = static_cast<std::byte const*>(slot.data);
        DType type = common;
        if (key.spec.keep_f32) {
          type = common == DType::f64 ? DType::f64 : DType::f32;
        } else if (options.dtype == DType::none &&
                   (slot.rank == 2 || (slot.dtype != common && detail::convert(slot.dtype, data, common, nullptr,
                                                                               n) != detail::Loss::none))) {
          type = slot.dtype;
        }
        SafetensorsSource source{name, type, detail::extents(key.spec.shape), nullptr, nullptr};
        if (slot.dtype == type) {
          source.data = slot.data;
        } else {
          source.fill = [name, type, n, data, stored = slot.dtype](std::span<std::byte> out) {
            JET_CHECK(detail::convert(stored, data, type, out.data(), n) != detail::Loss::overflow, "save: tensor ",
                      detail::in_quotes(name), ": a value of ", name_of(stored), " is too large for ",
                      name_of(type));
          };
        }
        sources.push_back(std::move(source));
      },
      plan);

  std::error_code error;
  std::filesystem::create_directories(directory, error);
  JET_CHECK(!error, directory.string(), ": cannot create directory: ", error.message());
  AtomicFile config(directory / config_file_name);
  config.write(write_config<Model>(plan, common, options.extra).dump(2) + "\n");
  config.finish();
  save_checkpoint(directory, sources, options.max_shard_bytes);
  config.commit();
}

JET_NAMESPACE_END
