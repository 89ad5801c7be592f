#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <jet/cpu/cpu.hpp>
#include <jet/io/hf_checkpoint.hpp>
#include <jet/model/init.hpp>

#include "file_support.hpp"
#include "golden/tiny_models.hpp"

namespace {

using golden::path_of;
using golden::TinyJet;
using golden::TinyLlama;
using golden::TinyLlama3;
using golden::TinyQwen2;
using golden::TinyQwen3;
using jet::DType;
using jet::i64;
using jet::Json;
using jet::Precision;
using tests::contains;
using tests::message_of;
using tests::read_file;
using tests::ScratchDirectory;
using tests::write_file;

constexpr Precision f16_weights{DType::f16, DType::f32, DType::f32, DType::f32};

/// Every tensor of a store by its name: dtype, shape and bytes.
struct Held {
  DType dtype;
  std::vector<i64> shape;
  std::string bytes;
  bool operator==(Held const&) const = default;
};
template <class Model> std::map<std::string, Held> content(jet::Weights<Model>& weights) {
  std::map<std::string, Held> all;
  weights.visit([&](jet::TensorKey const& key, jet::Slot& slot) {
    all[Model::names::key(key.module, key.layer, key.spec.name)] = {
        slot.dtype, std::vector<i64>(slot.extent, slot.extent + slot.rank),
        std::string(static_cast<char const*>(slot.data),
                    static_cast<std::size_t>(slot.numel() * size_of(slot.dtype)))};
  });
  return all;
}
std::map<std::string, Held> content(std::filesystem::path const& directory) {
  std::map<std::string, Held> all;
  jet::CheckpointFiles const files(directory);
  for (auto const& [name, tensor] : files.tensors()) {
    all[name] = {tensor.dtype, tensor.shape,
                 std::string(reinterpret_cast<char const*>(tensor.data), static_cast<std::size_t>(tensor.bytes))};
  }
  return all;
}

/// The tensors of a golden checkpoint, to be changed and written elsewhere.
struct Edited {
  std::map<std::string, Held> tensors;
  Json config;

  template <class Model> static Edited of() {
    return {content(path_of<Model>()), jet::load_json(path_of<Model>() / "config.json")};
  }
  void add(std::string const& name, DType dtype, std::vector<i64> shape) {
    i64 bytes = size_of(dtype);
    for (i64 const extent : shape) {
      bytes *= extent;
    }
    tensors[name] = {dtype, std::move(shape), std::string(static_cast<std::size_t>(bytes), '\0')};
  }
  void save(std::filesystem::path const& directory) const {
    std::vector<jet::SafetensorsSource> sources;
    for (auto const& [name, held] : tensors) {
      sources.push_back({name, held.dtype, held.shape, held.bytes.data(), nullptr});
    }
    jet::save_checkpoint(directory, sources, i64{1} << 40);
    write_file(directory / "config.json", config.dump());
  }
};

/// Worst relative error of the logits of the first prompt.
template <class Model, jet::Precision P> double logits_error(std::filesystem::path const& directory) {
  jet::SafetensorsFile const file(path_of<Model>() / "golden.safetensors");
  auto const& ids = file.at("input_ids");
  auto const& logits = file.at("logits");
  i64 const tokens = ids.shape[1];
  std::vector<std::int32_t> prompt;
  for (i64 t = 0; t < tokens; ++t) {
    std::int64_t id = 0;
    std::memcpy(&id, ids.data + t * 8, 8);
    prompt.push_back(static_cast<std::int32_t>(id));
  }
  auto engine =
      jet::load<Model, jet::Cpu<P>>(directory, {.max_len = tokens, .chunk = tokens, .max_logits = tokens});
  jet::Batch batch;
  batch.add(0, tokens, 0);
  batch.logits = jet::Logits::all;
  jet::View const out = engine.forward(batch, prompt);
  std::vector<float> expected(static_cast<std::size_t>(tokens * Model::config.vocab));
  std::memcpy(expected.data(), logits.data, expected.size() * 4);
  return golden::relative_error(out.as<typename jet::Cpu<P>::scalar>(), expected.data(), out.numel());
}

// ---- a stack that only jet_hybrid can express

struct ScaleConfig {
  i64 d_model = 0;
  double factor = 1;
  template <class Self, class F> static constexpr void fields(Self& self, F&& f) {
    f("d_model", self.d_model);
    f("factor", self.factor);
  }
};
/// A user's block: y = x W^T.
template <ScaleConfig C> struct ScaleBlock {
  static constexpr auto config = C;
  static constexpr std::string_view kind = "scale";
  static constexpr i64 width = C.d_model;
  template <class T> struct Params { T w, bias; };
  static constexpr Params<jet::ParamSpec> params() {
    return {.w = {"w.weight", {C.d_model, C.d_model}, jet::Init::normal(0, C.factor)},
            .bias = {"w.bias", {C.d_model}, jet::Init::normal()}};
  }
  template <class T> struct State {};
  static constexpr State<jet::StateSpec> state() { return {}; }
  template <jet::Backend B>
  static void forward(jet::Context<B>& ctx, Params<jet::Slot> const& w, State<jet::Slot>&, jet::View x,
                      jet::View y) {
    ctx.run(jet::op::Linear{}, w.w, w.bias, x, y);
  }
};

inline constexpr jet::AttentionConfig two_heads{.d_model = 32, .heads = 2, .kv_heads = 1, .head = 8};
inline constexpr jet::AttentionConfig four_heads{
    .d_model = 32, .heads = 4, .kv_heads = 2, .head = 8, .qkv_bias = true, .qk_norm = true};

struct Hybrid
    : jet::CausalLM<jet::LmConfig{.vocab = 50, .d_model = 32, .mlp = 40, .tied = false}, "ABSN",
                    jet::Bind<'A', jet::FullAttention<two_heads>>,
                    jet::Bind<'B', jet::FullAttention<four_heads>, jet::SwiGluMlp<jet::MlpConfig{32, 24}>>,
                    jet::Bind<'S', ScaleBlock<ScaleConfig{.d_model = 32, .factor = 0.25}>>,
                    jet::Bind<'N', jet::SlidingWindow<two_heads, 3>, jet::NoMlp>> {};

template <class Model> std::shared_ptr<jet::Weights<Model>> random_weights(std::vector<std::string> letters = {}) {
  auto weights = letters.empty() ? std::make_shared<jet::Weights<Model>>()
                                 : std::make_shared<jet::Weights<Model>>(std::move(letters));
  weights->allocate(jet::Cpu<jet::precision::f32>());
  jet::initialise(*weights, 7);
  return weights;
}

template <class Model> float& first_element(jet::Weights<Model>& weights, std::string const& name) {
  float* found = nullptr;
  weights.visit([&](jet::TensorKey const& key, jet::Slot& slot) {
    if (Model::names::key(key.module, key.layer, key.spec.name) == name) {
      found = slot.as<float>();
    }
  });
  REQUIRE(found != nullptr);
  return *found;
}

}  // namespace

TEST_CASE("hf_checkpoint: logits of the golden checkpoints") {
  auto const check = []<class Model>() {
    CAPTURE(Model::directory);
    CHECK(logits_error<Model, jet::precision::f32>(path_of<Model>()) < 1e-5);
    CHECK(logits_error<Model, jet::precision::f64>(path_of<Model>()) < 2e-6);
  };
  check.operator()<TinyJet>();
  check.operator()<TinyQwen2>();
  check.operator()<TinyQwen3>();
  check.operator()<TinyLlama>();
  check.operator()<TinyLlama3>();
}

TEST_CASE("hf_checkpoint: tensors stay in the mapping where they can") {
  auto const mapped = jet::load_weights<TinyJet>(path_of<TinyJet>(), jet::precision::f32);
  auto const copied = jet::load_weights<TinyJet>(path_of<TinyJet>(), jet::precision::f32, {.map = false});
  auto const wide = jet::load_weights<TinyJet>(path_of<TinyJet>(), jet::precision::f64);
  CHECK(content(*mapped) == content(path_of<TinyJet>()));
  CHECK(content(*copied) == content(*mapped));
  CHECK(mapped->owned_bytes() == TinyJet::num_params() * 4);
  CHECK(copied->owned_bytes() == copied->bytes(jet::precision::f32));
  CHECK(wide->owned_bytes() == wide->bytes(jet::precision::f64));
  CHECK(mapped->storage().size() == 1);
  CHECK(mapped->head.data == mapped->embedding.data);
  copied->visit([](jet::TensorKey const&, jet::Slot& slot) {
    CHECK(reinterpret_cast<std::uintptr_t>(slot.data) % 64 == 0);
    *slot.as<float>() += 1;  // may be written
  });
  // matrices of bf16 weights are converted, vectors stay
  auto const mixed = jet::load_weights<TinyJet>(path_of<TinyJet>(), jet::precision::bf16_weights);
  CHECK(mixed->storage().size() == 2);
  mixed->visit([](jet::TensorKey const& key, jet::Slot& slot) {
    CHECK(slot.dtype == (key.spec.shape.rank == 2 ? DType::bf16 : DType::f32));
  });
}

TEST_CASE("hf_checkpoint: tensors at odd addresses are copied") {
  ScratchDirectory directory;
  std::string file = read_file(path_of<TinyQwen2>() / "model.safetensors");
  REQUIRE(static_cast<unsigned char>(file[0]) < 255);
  std::size_t length = 0;
  std::memcpy(&length, file.data(), 8);
  file.insert(8 + length, 1, ' ');  // the header one byte longer
  ++length;
  std::memcpy(file.data(), &length, 8);
  write_file(directory.path / "model.safetensors", file);
  std::filesystem::copy(path_of<TinyQwen2>() / "config.json", directory.path);
  auto const weights = jet::load_weights<TinyQwen2>(directory.path, jet::precision::f32);
  CHECK(content(*weights) == content(path_of<TinyQwen2>()));
  weights->visit(
      [](jet::TensorKey const&, jet::Slot& slot) { CHECK(reinterpret_cast<std::uintptr_t>(slot.data) % 64 == 0); });
}

TEST_CASE("hf_checkpoint: everything that is wrong with the tensors comes in one error") {
  ScratchDirectory directory;
  Edited edited = Edited::of<TinyJet>();
  edited.tensors.erase("model.layers.0.self_attn.A_log");
  edited.tensors.erase("model.norm.weight");
  edited.add("model.layers.0.self_attn.conv1d.weight", DType::f32, {128, 1, 4});
  edited.add("model.layers.6.input_layernorm.weight", DType::bf16, {64});
  edited.add("model.layers.1.self_attn.k_proj.weight", DType::f32, {64, 64});
  edited.add("model.layers.1.self_attn.k_proj.bias", DType::f32, {1, 32});
  edited.add("model.layers.2.mlp.up_proj.weight", DType::i32, {176, 64});
  edited.add("model.layers.3.mlp.up_proj.weight", DType::u8, {176, 32});
  edited.add("model.layers.3.self_attn.rotary_emb.inv_freq", DType::f32, {8});  // ignored
  edited.save(directory.path);
  std::string const message = message_of([&] { jet::load_weights<TinyJet>(directory.path, jet::precision::f32); });
  CAPTURE(message);
  for (std::string_view const line : {
           "\n  missing: model.layers.0.self_attn.A_log: expected shape [2]",
           "\n  missing: model.norm.weight: expected shape [64]",
           "\n  not part of the model: model.layers.0.self_attn.conv1d.weight: found F32 [128, 1, 4]",
           "\n  not part of the model: model.layers.6.input_layernorm.weight: found BF16 [64]",
           "\n  wrong shape: model.layers.1.self_attn.k_proj.weight: expected [32, 64], found [64, 64]",
           "\n  wrong shape: model.layers.1.self_attn.k_proj.bias: expected [32], found [1, 32]",
           "\n  wrong dtype: model.layers.2.mlp.up_proj.weight: expected F64, F32, BF16 or F16, found I32",
           "\n  wrong shape: model.layers.3.mlp.up_proj.weight: expected [176, 64], found [176, 32]",
           "\n  wrong dtype: model.layers.3.mlp.up_proj.weight: expected F64, F32, BF16 or F16, found U8",
       }) {
    CAPTURE(line);
    CHECK(contains(message, line));
  }
  CHECK(std::count(message.begin(), message.end(), '\n') == 9);
  CHECK(contains(message, directory.path.string()));
}

TEST_CASE("hf_checkpoint: the config is compared unless it is to be ignored") {
  ScratchDirectory directory;
  Edited edited = Edited::of<TinyQwen2>();
  edited.config["rope_theta"] = 1e4;
  edited.save(directory.path);
  auto const load = [&](jet::LoadOptions const& options) {
    return message_of([&] { jet::load_weights<TinyQwen2>(directory.path, jet::precision::f32, options); });
  };
  CHECK(contains(load({}), (directory.path / "config.json").string() + ": does not fit the model type"));
  CHECK(contains(load({}), "rope_theta: expected 1e+06, found 10000 (layers 0-1)"));
  CHECK(load({.ignore_config = true}) == "");
  std::filesystem::remove(directory.path / "config.json");
  CHECK(contains(load({}), "config.json: cannot open"));
  CHECK(load({.ignore_config = true}) == "");
  CHECK(contains(load({.plan = "A", .ignore_config = true}), "plan \"A\" has 1 letters"));
  CHECK(contains(message_of([] { jet::load_weights<TinyQwen3>(path_of<TinyQwen2>(), jet::precision::f32); }),
                 "model_type qwen2 (qkv_bias): expected false, found true"));
}

TEST_CASE("hf_checkpoint: another plan of the type") {
  // a file of attention layers as the letters A and S, which share tensors' names
  ScratchDirectory directory;
  auto weights = random_weights<TinyJet>({"S", "A", "J", "A", "A", "A"});
  jet::save(*weights, directory.path);
  CHECK(jet::load_json(directory.path / "config.json").at("layer_types") ==
        Json{"swa", "attn", "jet", "attn", "attn", "attn"});
  CHECK(contains(message_of([&] { jet::load_weights<TinyJet>(directory.path, jet::precision::f32); }),
                 "layer_types: expected \"jet\", found \"swa\" (layer 0)"));
  auto const again = jet::load_weights<TinyJet>(directory.path, jet::precision::f32, {.plan = "SAJAAA"});
  CHECK(again->letters() == std::vector<std::string>{"S", "A", "J", "A", "A", "A"});
  CHECK(content(*again) == content(*weights));
  auto const engine = jet::load<TinyJet, jet::Cpu<jet::precision::f32>>(directory.path, {.plan = "SAJAAA"});
  CHECK(engine.plan() == "SAJAAA");
  CHECK(jet::load<TinyJet, jet::Cpu<jet::precision::f32>>(directory.path, {}, {.plan = "SAJAAA"}).plan() ==
        "SAJAAA");

  // of a store with several letters for a layer one has to be named
  auto super = random_weights<TinyJet>({"AJ", "A", "S", "J", "S", "A"});
  ScratchDirectory other;
  CHECK(contains(message_of([&] { jet::save(*super, other.path); }),
                 "layer 0 of the store holds the letters \"AJ\""));
  CHECK(other.names().empty());
  jet::save(*super, other.path, {.plan = "JASJSA"});
  CHECK(content(other.path).size() == content(path_of<TinyJet>()).size());
  CHECK(message_of([&] { jet::load_weights<TinyJet>(other.path, jet::precision::f32); }) == "");
  CHECK(contains(message_of([&] { jet::save(*super, other.path, {.plan = "JAAJSA"}); }),
                 "no weights for letter 'A'"));
}

TEST_CASE("hf_checkpoint: bf16 and f16 files, into f32 and back") {
  auto const check = []<class Model>(DType dtype, Precision const& same, double tolerance) {
    ScratchDirectory narrow, wide, again;
    auto const original = jet::load_weights<Model>(path_of<Model>(), jet::precision::f32);
    jet::save(*original, narrow.path, {.dtype = dtype});
    jet::SafetensorsFile const file(narrow.path / "model.safetensors");
    for (auto const& tensor : file.tensors()) {
      bool const kept = tensor.name.ends_with("A_log") || tensor.name.ends_with("dt_bias");
      CHECK(tensor.dtype == (kept ? DType::f32 : dtype));
    }
    CHECK(jet::load_json(narrow.path / "config.json").at("torch_dtype") == jet::detail::torch_name_of(dtype));

    // f32 in memory holds the same numbers; saved with the dtype of the file, every byte is as before
    auto const widened = jet::load_weights<Model>(narrow.path, jet::precision::f32);
    jet::save(*widened, wide.path);
    CHECK(content(wide.path) == content(*widened));
    jet::save(*widened, again.path, {.dtype = dtype});
    CHECK(content(again.path) == content(narrow.path));
    CHECK(read_file(again.path / "config.json") == read_file(narrow.path / "config.json"));
    double const error = logits_error<Model, jet::precision::f32>(wide.path);
    CHECK(error > 1e-5);
    CHECK(error < tolerance);

    // matrices at the dtype, vectors at f32: saved without a stated dtype, vectors go back to the matrices' dtype
    ScratchDirectory back;
    auto const kept = jet::load_weights<Model>(narrow.path, same);
    jet::save(*kept, back.path);
    CHECK(content(back.path) == content(narrow.path));
    // unless that would lose something
    std::string const norm = "model.norm.weight";
    auto const changed = jet::load_weights<Model>(narrow.path, same, {.map = false});
    first_element(*changed, norm) = 1.0F + 0x1p-20F;
    jet::save(*changed, back.path);
    auto const saved = content(back.path);
    CHECK(saved.at(norm).dtype == DType::f32);
    CHECK(saved.at("model.layers.0.input_layernorm.weight").dtype == dtype);
    CHECK(content(*jet::load_weights<Model>(back.path, same)) == content(*changed));
  };
  check.operator()<TinyJet>(DType::bf16, jet::precision::bf16_weights, 0.03);
  check.operator()<TinyJet>(DType::f16, f16_weights, 0.01);
  check.operator()<TinyLlama>(DType::bf16, jet::precision::bf16_weights, 0.03);
}

TEST_CASE("hf_checkpoint: values that a dtype cannot hold are errors") {
  ScratchDirectory directory;
  auto weights = jet::load_weights<TinyLlama>(path_of<TinyLlama>(), jet::precision::f32, {.map = false});
  std::string const name = "model.layers.1.mlp.down_proj.weight";
  first_element(*weights, name) = -1e6F;
  std::string const message = message_of([&] { jet::save(*weights, directory.path, {.dtype = DType::f16}); });
  CHECK(contains(message, "save: tensor \"" + name + "\": a value of f32 is too large for f16"));
  CHECK(directory.names().empty());
  jet::save(*weights, directory.path, {.dtype = DType::bf16});
  jet::save(*weights, directory.path);
  CHECK(contains(message_of([&] { jet::load_weights<TinyLlama>(directory.path, f16_weights); }),
                 "tensor \"" + name + "\": a value of F32 is too large for f16"));
  first_element(*weights, name) = -std::numeric_limits<float>::infinity();
  jet::save(*weights, directory.path, {.dtype = DType::f16});
  CHECK(contains(message_of([&] { jet::save(*weights, directory.path, {.dtype = DType::u8}); }),
                 "option dtype: expected f64, f32, bf16 or f16, found u8"));
  jet::Weights<TinyLlama> unbound;
  CHECK(contains(message_of([&] { jet::save(unbound, directory.path); }), "found no memory"));
}

TEST_CASE("hf_checkpoint: f64 weights lose nothing") {
  ScratchDirectory directory;
  auto weights = std::make_shared<jet::Weights<TinyJet>>();
  weights->allocate(jet::Cpu<jet::precision::f64>());
  jet::initialise(*weights, 3);
  jet::save(*weights, directory.path);
  CHECK(jet::load_json(directory.path / "config.json").at("torch_dtype") == "float64");
  CHECK(content(*jet::load_weights<TinyJet>(directory.path, jet::precision::f64)) == content(*weights));
}

TEST_CASE("hf_checkpoint: shards") {
  ScratchDirectory directory;
  auto const weights = jet::load_weights<TinyJet>(path_of<TinyJet>(), jet::precision::f32);
  jet::save(*weights, directory.path, {.max_shard_bytes = 200'000});
  CHECK(directory.names().count("model.safetensors.index.json") == 1);
  CHECK(directory.names().size() > 4);
  CHECK(content(directory.path) == content(path_of<TinyJet>()));
  auto const sharded = jet::load_weights<TinyJet>(directory.path, jet::precision::f32);
  CHECK(content(*sharded) == content(*weights));
  CHECK(sharded->storage().size() == directory.names().size() - 2);
  CHECK(sharded->owned_bytes() == TinyJet::num_params() * 4);
  CHECK(logits_error<TinyJet, jet::precision::f32>(directory.path) < 1e-5);
  // over itself, mapped, as one file
  jet::save(*sharded, directory.path);
  CHECK(directory.names() == std::set<std::string>{"config.json", "model.safetensors"});
  CHECK(content(directory.path) == content(path_of<TinyJet>()));
}

TEST_CASE("hf_checkpoint: save and load give the same bytes, and the config that the class needs") {
  auto const check = []<class Model>() {
    CAPTURE(Model::directory);
    ScratchDirectory directory;
    Json const original = jet::load_json(path_of<Model>() / "config.json");
    auto const weights = jet::load_weights<Model>(path_of<Model>(), jet::precision::f32);
    jet::save(*weights, directory.path, {.extra = original});
    CHECK(directory.names() == std::set<std::string>{"config.json", "model.safetensors"});
    CHECK(content(directory.path) == content(path_of<Model>()));
    CHECK(content(*jet::load_weights<Model>(directory.path, jet::precision::f32)) == content(*weights));
    CHECK(jet::SafetensorsFile(directory.path / "model.safetensors").metadata() ==
          jet::SafetensorsMetadata{{"format", "pt"}});
    Json const config = jet::load_json(directory.path / "config.json");
    for (std::string const key : {"architectures", "bos_token_id", "eos_token_id", "torch_dtype", "model_type"}) {
      CHECK(config.at(key) == original.at(key));
    }
    CHECK(config == jet::write_config<Model>(Model::plan(), DType::f32, original));
  };
  check.operator()<TinyJet>();
  check.operator()<TinyQwen2>();
  check.operator()<TinyQwen3>();
  check.operator()<TinyLlama>();
  check.operator()<TinyLlama3>();
}

TEST_CASE("hf_checkpoint: a stack of our own") {
  ScratchDirectory directory;
  auto const weights = random_weights<Hybrid>();
  jet::save(*weights, directory.path);
  CHECK(jet::load_json(directory.path / "config.json").at("model_type") == "jet_hybrid");
  auto const saved = content(directory.path);
  CHECK(saved.count("lm_head.weight") == 1);
  CHECK(saved.count("model.layers.2.self_attn.w.weight") == 1);
  CHECK(saved.count("model.layers.3.mlp.up_proj.weight") == 0);
  CHECK(saved.count("model.layers.3.post_attention_layernorm.weight") == 0);
  CHECK(saved.at("model.layers.1.mlp.up_proj.weight").shape == std::vector<i64>{24, 32});

  using B = jet::Cpu<jet::precision::f32>;
  jet::Engine<Hybrid, B> before(weights, {.max_len = 16});
  jet::Engine<Hybrid, B> after = jet::load<Hybrid, B>(directory.path, {.max_len = 16});
  std::vector<std::int32_t> const ids{3, 1, 4, 1, 5, 9, 2, 6};
  jet::View const expected = before.append(0, ids);
  jet::View const found = after.append(0, ids);
  CHECK(std::memcmp(expected.data, found.data, static_cast<std::size_t>(expected.numel()) * 4) == 0);
}

TEST_CASE("hf_checkpoint: a head beside a tied embedding") {
  auto const load = [](Edited const& edited) {
    ScratchDirectory directory;
    edited.save(directory.path);
    return message_of([&] {
      auto const weights = jet::load_weights<TinyQwen2>(directory.path, jet::precision::f32);
      CHECK(weights->head.data == weights->embedding.data);
    });
  };
  Edited const golden = Edited::of<TinyQwen2>();
  Edited edited = golden;
  edited.tensors["lm_head.weight"] = golden.tensors.at("model.embed_tokens.weight");
  CHECK(load(edited) == "");
  // the same numbers in another dtype
  Held& head = edited.tensors["lm_head.weight"];
  head = {DType::f64, head.shape, std::string(head.bytes.size() * 2, '\0')};
  auto const& embedding = golden.tensors.at("model.embed_tokens.weight").bytes;
  jet::detail::convert(DType::f32, reinterpret_cast<std::byte const*>(embedding.data()), DType::f64,
                       reinterpret_cast<std::byte*>(head.bytes.data()), 128 * 32);
  CHECK(load(edited) == "");
  head.bytes.back() ^= 1;
  CHECK(contains(load(edited), "not tied: lm_head.weight differs from model.embed_tokens.weight"));
  head = golden.tensors.at("model.embed_tokens.weight");
  head.bytes[4 * 1000] ^= 1;
  CHECK(contains(load(edited), "not tied: lm_head.weight differs from model.embed_tokens.weight"));
  edited.add("lm_head.weight", DType::f32, {127, 32});
  CHECK(contains(load(edited), "wrong shape: lm_head.weight: expected [128, 32], found [127, 32]"));
  edited.add("lm_head.weight", DType::i32, {128, 32});
  CHECK(contains(load(edited), "wrong dtype: lm_head.weight"));
  // an untied type needs it
  ScratchDirectory directory;
  Edited untied = Edited::of<TinyLlama>();
  untied.tensors.erase("lm_head.weight");
  untied.save(directory.path);
  CHECK(contains(message_of([&] { jet::load_weights<TinyLlama>(directory.path, jet::precision::f32); }),
                 "missing: lm_head.weight: expected shape [128, 32]"));
}

TEST_CASE("hf_checkpoint: a save that does not finish leaves the old checkpoint") {
  ScratchDirectory directory;
  auto const old = random_weights<TinyJet>();
  jet::save(*old, directory.path);
  auto const config = read_file(directory.path / "config.json");
  auto const tensors = content(directory.path);

  auto const other = jet::load_weights<TinyJet>(path_of<TinyJet>(), jet::precision::f32, {.map = false});
  first_element(*other, "model.layers.5.mlp.down_proj.weight") = 1e30F;
  Json const extra{{"bos_token_id", 5}};
  for (i64 const shard : {i64{1} << 40, i64{50'000}}) {
    CHECK(contains(message_of([&] {
                     jet::save(*other, directory.path,
                               {.dtype = DType::f16, .max_shard_bytes = shard, .extra = extra});
                   }),
                   "too large for f16"));
    // a save that was killed before has left temporaries: the next one removes them
    CHECK(directory.names() == std::set<std::string>{"config.json", "model.safetensors"});
    CHECK(read_file(directory.path / "config.json") == config);
    CHECK(content(directory.path) == tensors);
    // killed while it writes
    pid_t const child = ::fork();
    if (child == 0) {
      rlimit const limit{20'000, 20'000};
      rlimit const no_core{0, 0};
      ::setrlimit(RLIMIT_FSIZE, &limit);
      ::setrlimit(RLIMIT_CORE, &no_core);
      message_of([&] { jet::save(*other, directory.path, {.max_shard_bytes = shard, .extra = extra}); });
      ::_exit(0);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status));
    CHECK(read_file(directory.path / "config.json") == config);
    CHECK(content(directory.path) == tensors);
  }
  CHECK(content(*jet::load_weights<TinyJet>(directory.path, jet::precision::f32)) == content(*old));
  // a config that cannot be put in place is found before anything is changed
  std::filesystem::remove(directory.path / "config.json");
  std::filesystem::create_directory(directory.path / "config.json");
  CHECK(message_of([&] { jet::save(*other, directory.path); }) != "");
  CHECK(content(directory.path) == tensors);
}
