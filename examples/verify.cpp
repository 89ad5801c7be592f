// Verifies a checkpoint layer by layer against tensors that a reference implementation wrote.
//   verify MODEL_DIR REFERENCE.safetensors [PREFIX]
// The reference holds input_ids (tokens) or (sequences, tokens), logits (..., tokens, vocab) and hidden_states.<i>
// or layer.<i>: the output of layer i before the final norm. PREFIX is put before every name. Exit status 1 if
// anything is further away than 1e-5 (relative RMS, float weights and activations).
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <jet/io/hf_checkpoint.hpp>
#include <jet/jet.hpp>

#include "tiny_model.hpp"

namespace {

// Weights of any floating dtype are read into float: this is about the mathematics.
using B = jet::Cpu<jet::precision::f32>;

struct Arguments {
  std::string model, reference, prefix;
};

/// Numbers of a reference tensor, from its `first`-th on.
template <class T> std::vector<T> numbers(jet::SafetensorsTensor const& tensor, jet::i64 first, jet::i64 count) {
  std::vector<T> out(static_cast<std::size_t>(count));
  JET_CHECK(tensor.dtype == jet::dtype_of<T>, tensor.name, ": expected ", jet::name_of(jet::dtype_of<T>),
            ", found ", tensor.file_dtype);
  std::memcpy(out.data(), tensor.data + first * static_cast<jet::i64>(sizeof(T)), out.size() * sizeof(T));
  return out;
}

struct Error {
  double relative_rms = 0;
  double largest = 0;
};
Error error(jet::View const& got, std::vector<float> const& want) {
  double difference = 0, norm = 0, largest = 0;
  for (jet::i64 t = 0; t < got.tokens(); ++t) {
    for (jet::i64 i = 0; i < got.width(); ++i) {
      double const w = static_cast<double>(want[static_cast<std::size_t>(t * got.width() + i)]);
      double const d = static_cast<double>(got.row<float>(t)[i]) - w;
      difference += d * d;
      norm += w * w;
      largest = std::max(largest, std::abs(d));
    }
  }
  double const ratio = std::sqrt(difference / norm);
  return {std::isfinite(ratio) ? ratio : std::numeric_limits<double>::infinity(), largest};
}

template <class Model> bool verify(Arguments const& a) {
  jet::SafetensorsFile const file(a.reference);
  auto const& ids_tensor = file.at(a.prefix + "input_ids");
  jet::i64 const sequences = ids_tensor.shape.size() > 1 ? ids_tensor.shape[0] : 1;
  jet::i64 const n = ids_tensor.shape.back();
  auto lm = jet::load<Model, B>(a.model, {.max_len = n, .chunk = n, .max_logits = n});
  bool good = true;
  for (jet::i64 s = 0; s < sequences; ++s) {
    std::vector<std::int32_t> ids;
    for (std::int64_t const id : numbers<std::int64_t>(ids_tensor, s * n, n)) {
      ids.push_back(static_cast<std::int32_t>(id));
    }
    auto const report = [&](std::string const& name, jet::View const& got, jet::SafetensorsTensor const& want) {
      Error const e = error(got, numbers<float>(want, s * n * got.width(), n * got.width()));
      bool const close = e.relative_rms < 1e-5;
      good = good && close;
      std::printf("sequence %lld  %-16s relative RMS %.2e  largest difference %.2e  %s\n",
                  static_cast<long long>(s), name.c_str(), e.relative_rms, e.largest, close ? "ok" : "DIFFERS");
    };
    jet::Batch batch;
    batch.add(0, n, 0);
    batch.logits = jet::Logits::all;
    jet::View const logits = lm.forward(batch, ids, [&](jet::i64 l, jet::Point point, jet::View const& v) {
      for (char const* name : {"hidden_states.", "layer."}) {
        auto const* want = file.find(a.prefix + name + std::to_string(l));
        if (point == jet::Point::layer_out && want != nullptr) {
          report("layer " + std::to_string(l), v, *want);
        }
      }
    });
    report("logits", logits, file.at(a.prefix + "logits"));
    lm.reset(0);
  }
  std::printf("%s\n", good ? "verified" : "NOT verified");
  return good;
}

template <class... Models> bool dispatch(Arguments const& a) {
  std::string const where = a.model + "/config.json";
  auto const description = jet::read_config(jet::load_config(where), where);
  bool found = false, good = false;
  auto const attempt = [&]<class Model>() {
    if (!found && jet::compare<Model>(description).empty()) {
      found = true;
      good = verify<Model>(a);
    }
  };
  (attempt.template operator()<Models>(), ...);
  JET_CHECK(found, where, ": no model type of this program agrees with it; add yours to the list in main()");
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::fprintf(stderr, "usage: verify MODEL_DIR REFERENCE.safetensors [PREFIX]\n");
    return 2;
  }
  try {
    return dispatch<TinyJet, jet::SmolLM2_135M, jet::Qwen2_5_0_5B, jet::Qwen3_0_6B, jet::Llama3_2_1B>(
               {argv[1], argv[2], argc > 3 ? argv[3] : ""})
               ? 0
               : 1;
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
}
