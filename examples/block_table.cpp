// The candidates of arXiv 2508.15884 side by side: the 2B hybrid with each linear-attention block in the place of
// JetBlock, with random weights and caches filled with random numbers.
//   block_table --json results.json     (built with JET_CUDA, on a GPU: at 64K tokens; resumes what is there)
//   block_table --only Mamba2 ...       (a part)
//   block_table --cpu --json FILE       (six layers of its sizes on the CPU: blocks with JetBlock's state, one
//   decay
//                                        per head)
//   block_table --small                 (a small hybrid on the CPU)
#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <jet/text/progress.hpp>

#include "block_table/rows.hpp"
#include "record_options.hpp"

namespace {

using jet::Json;

struct Options : RecordOptions {
  i64 context = 0, batch = 0;
  bool cpu = false;
};

// Inference column of the paper's table 1, tokens/s at 64K: an H100, the authors' software.
std::map<std::string, double> const& published() {
  static std::map<std::string, double> const all{{"RWKV7", 2542},   {"RetNet", 2535},   {"Mamba2", 3220},
                                                 {"GLA", 3079},     {"DeltaNet", 2955}, {"Gated DeltaNet", 2980},
                                                 {"JetBlock", 2885}};
  return all;
}

std::vector<Row> rows(Options const& options) {
  if (options.small) {
    std::vector<Row> all = small_delta_rows();
    std::vector<Row> more = small_additive_rows();
    std::move(more.begin(), more.end(), std::back_inserter(all));
    return all;
  }
  if (options.cpu) {
    return cpu_2b_rows();
  }
#if defined(JET_EXAMPLE_CUDA)
  return {gpu_jet_block(), gpu_retnet(),         gpu_retnet_equal(),   gpu_mamba2(), gpu_mamba2_equal(), gpu_gla(),
          gpu_deltanet(),  gpu_deltanet_equal(), gpu_gated_deltanet(), gpu_rwkv7(),  gpu_rwkv7_equal()};
#else
  jet::fail("this program was built for the CPU only: configure with -DJET_CUDA=ON, or give --cpu or --small");
#endif
}

void print(Json const& r) {
  auto const number = [&](char const* key, int digits) { return number_text(r, key, digits); };
  std::printf("%-15s %3lld x %3lld x %3lld %14lld %10lld %9s | %10s %6s %10s %6s | %9s\n",
              r.at("block").get<std::string>().c_str(), r.at("heads").get<long long>(),
              r.at("head_k").get<long long>(), r.at("head_v").get<long long>(), r.at("params").get<long long>(),
              r.at("state_bytes").get<long long>(), number("cache_mib", 2).c_str(),
              number("prefill_tokens_per_s", 0).c_str(), number("prefill_roofline_percent", 1).c_str(),
              number("decode_tokens_per_s", 1).c_str(), number("roofline_percent", 1).c_str(),
              number("published_tokens_per_s", 0).c_str());
  std::fflush(stdout);
}

void run(Options options) {
  auto const set = [](i64& value, i64 otherwise) { value = value > 0 ? value : otherwise; };
  set(options.context, options.small ? 128 : options.cpu ? 1024 : 65536);
  set(options.batch, options.small ? 4 : options.cpu ? 1 : 128);
  if (options.cpu) {
    set(options.prefill_tokens, 1024);
    set(options.chunk, 256);
    set(options.steps, 16);
  }
  options.complete();

  Machine machine;
  if (options.small || options.cpu) {
    machine = this_cpu();
  } else {
#if defined(JET_EXAMPLE_CUDA)
    machine = gpu();
#endif
  }
  std::vector<Row> const all = rows(options);
  for (std::string const& name : options.only) {
    JET_CHECK(published().count(name) == 1, "option --only ", name,
              ": expected RWKV7, RetNet, Mamba2, GLA, DeltaNet, Gated DeltaNet or JetBlock");
  }
  Records records(options.json,
                  {"model", "block", "head_k", "head_v", "heads", "context", "batch", "state_dtype", "kv_dtype"});
  std::printf("%s, driver %s: reading %.0f GB/s, copying %.0f GB/s; %lld sequences of %lld tokens\n",
              machine.device.c_str(), machine.driver.c_str(), machine.ceilings.read / 1e9,
              machine.ceilings.copy / 1e9, static_cast<long long>(options.batch),
              static_cast<long long>(options.context));
  std::printf("%-15s %15s %14s %10s %9s | %10s %6s %10s %6s | %9s\n", "block", "heads x k x v", "parameters",
              "state/layer", "cache/seq", "prefill", "of", "decode", "of", "published");
  std::printf("%-15s %15s %14s %10s %9s | %10s %6s %10s %6s | %9s\n", "", "", "of the model", "bytes", "MiB",
              "tokens/s", "floor", "tokens/s", "floor", "tokens/s");
  for (Row const& row : all) {
    Subject const& s = row.subject;
    if (!options.only.empty() &&
        std::find(options.only.begin(), options.only.end(), row.block) == options.only.end()) {
      continue;
    }
    Json record{{"model", options.small ? "small hybrid"
                          : options.cpu ? "six layers of Jet-Nemotron-2B"
                                        : "Jet-Nemotron-2B hybrid"},
                {"block", row.block},
                {"head_k", row.head_k},
                {"head_v", row.head_v},
                {"heads", row.heads},
                {"context", options.context},
                {"batch", options.batch},
                {"state_dtype", s.state_dtype},
                {"kv_dtype", s.kv_dtype}};
    if (Json const* const found = records.find(record); found != nullptr && !options.again) {
      print(*found);
      continue;
    }
    record["params"] = s.params;
    record["block_params"] = row.block_params;
    record["state_bytes"] = row.state_bytes();
    record["cache_mib"] = rounded(static_cast<double>(s.cache_bytes(options.context)) / (1 << 20), 0.01);
    PrefillCase p{options.context, (options.prefill_tokens + options.context - 1) / options.context, 1, 1};
    p.group = std::clamp<i64>(options.chunk / options.context, 1, p.sequences);
    p.piece = std::min(options.context, options.chunk);
    DecodeCase const d{options.context, options.batch, options.steps};
    double const step = s.decode(d);
    jet::ProgressBar bar(s.name + ": prefill", p.tokens(), "tok");
    double const seconds = s.prefill(p, [&](i64 done) { bar.set(done); });
    bar.clear();
    s.release();
    record["decode_tokens_per_s"] = rounded(static_cast<double>(d.batch) / step, 0.1);
    record["prefill_tokens"] = p.tokens();
    record["prefill_chunk"] = p.group * p.piece;
    record["prefill_tokens_per_s"] = rounded(static_cast<double>(p.tokens()) / seconds, 0.1);
    record["roofline_percent"] = rounded(100 * s.decode_floor(machine.ceilings, d) / step, 0.1);
    if (machine.ceilings.tensor > 0) {
      record["prefill_roofline_percent"] = rounded(100 * s.prefill_floor(machine.ceilings, p) / seconds, 0.1);
      record["published_tokens_per_s"] = published().at(row.block);
    }
    record["device"] = machine.device;
    record["driver"] = machine.driver;
    record["commit"] = options.commit;
    record["date"] = options.date;
    record["command"] = options.command;
    records.put(record);
    print(record);
  }
  std::printf(
      "published: table 1 of the paper, at 64K tokens, on an H100 in the authors' software, whose sizes of the\n"
      "blocks are not known.\n");
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  options.command = command_of(argc, argv);
  CLI::App app("Throughput of the 2B hybrid with each linear-attention block.");
  options.add_to(app, "a block", "a small hybrid on the CPU");
  app.add_flag("--cpu", options.cpu, "six layers of the hybrid on the CPU, blocks with JetBlock's state");
  app.add_option("--context", options.context, "tokens");
  app.add_option("--batch", options.batch, "sequences of a decode step");
  CLI11_PARSE(app, argc, argv);
  try {
    run(std::move(options));
  } catch (std::exception const& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
