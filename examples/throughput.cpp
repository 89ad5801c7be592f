// The efficiency table of arXiv 2508.15884 as one command: decode and prefill of Jet-Nemotron and of the models it
// is compared with, at contexts of 4K to 256K tokens, with random weights and caches filled with random numbers.
//   throughput --json results.json --svg results.svg       (built with JET_CUDA, on a GPU; resumes what is there)
//   throughput --only Jet-Nemotron-2B,65536 --json ...     (a part; may be given several times)
//   throughput --dry-run                                   (memory plan and floors; needs no GPU)
//   throughput --small                                     (small models on the CPU)
// Decode is timed at the published batch (where none is published, at that of 64K times 65,536 / context; at most
// 1,024 and what fits), and at the largest that fits. Prefill is timed on whole sequences. Floors:
// bench/roofline.hpp, from the memory rates of this run; a decode step's is its memory traffic, a prefill's the sum
// over its operators.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <jet/model/jet_nemotron.hpp>
#include <jet/model/llama.hpp>
#include <jet/model/mamba2.hpp>
#include <jet/model/qwen.hpp>
#include <jet/model/rwkv7.hpp>
#include <jet/text/progress.hpp>

#include "chart.hpp"
#include "record_options.hpp"
#include "throughput/models.hpp"

namespace {

using jet::Json;

struct Options : RecordOptions {
  std::vector<i64> contexts;
  std::filesystem::path svg;
  std::string device = "h100";
  double memory_gib = 0;
  bool dry_run = false, no_largest = false;
};

std::vector<Subject> large_models() {
#if defined(JET_EXAMPLE_CUDA)
  return {jet_nemotron_2b(), jet_nemotron_2b_fp8(), jet_nemotron_4b(), qwen2_5_1_5b(), qwen3_1_7b(),
          smollm2_1_7b(),    llama3_2_3b(),         mamba2_2_7b(),     rwkv7_1_5b()};
#else
  constexpr jet::Precision p = jet::precision::bf16;
  return {describe_subject<jet::JetNemotron2B, p>("Jet-Nemotron-2B"),
          describe_subject<jet::JetNemotron2B, small_caches>("Jet-Nemotron-2B-fp8"),
          describe_subject<jet::JetNemotron4B, p>("Jet-Nemotron-4B"),
          describe_subject<jet::Qwen2_5_1_5B, p>("Qwen2.5-1.5B"),
          describe_subject<jet::Qwen3_1_7B, p>("Qwen3-1.7B"),
          describe_subject<jet::SmolLM2_1_7B, p>("SmolLM2-1.7B"),
          describe_subject<jet::Llama3_2_3B, p>("Llama-3.2-3B"),
          describe_subject<jet::Mamba2_2_7B, p>("Mamba2-2.7B"),
          describe_subject<jet::Rwkv7_1_5B, p>("RWKV7-1.5B")};
#endif
}

double mib(i64 bytes) {
  return static_cast<double>(bytes) / (1024.0 * 1024.0);
}

class Table {
 public:
  Table(Options const& options, Machine machine, std::string reference)
      : options_(options),
        machine_(std::move(machine)),
        reference_(std::move(reference)),
        records_(options.json, {"model", "context", "batch", "state_dtype", "kv_dtype"}) {}

  // Batches to time: the published or scaled one, then the largest that fits.
  struct Batches {
    i64 rule = 0;     // 0: not even one fits
    i64 wanted = 0;   // the rule's, before it was capped at what fits
    i64 largest = 0;  // at most 1,024
    bool is_published = false;
  };
  Batches batches(Subject const& s, i64 context) const {
    constexpr i64 most = 1024;
    auto const fits = [&](i64 batch) {
      return s.decode_plan({context, batch, options_.steps}).total() <= machine_.memory;
    };
    i64 low = 0, high = most + 1;  // fits, does not
    if (fits(most)) {
      low = most;
    } else {
      high = most;
    }
    while (high - low > 1) {
      i64 const middle = (low + high) / 2;
      (fits(middle) ? low : high) = middle;
    }
    auto const known = published().find(s.name);
    Published const p = known == published().end() ? Published{} : known->second;
    auto const exact = p.batches.find(context);
    Batches b;
    b.largest = low;
    b.is_published = exact != p.batches.end() || context == 65536;
    b.wanted = options_.small             ? 4
               : exact != p.batches.end() ? exact->second
                                          : std::clamp<i64>(p.batch * 65536 / context, 1, most);
    b.rule = std::min(b.wanted, low);
    return b;
  }

  // Sequences of `context` in groups of at most `chunk` tokens; smaller ones where that does not fit.
  PrefillCase prefill_case(Subject const& s, i64 context) const {
    PrefillCase c;
    for (i64 chunk = options_.chunk; chunk >= 1; chunk /= 2) {
      c.context = context;
      c.sequences = (options_.prefill_tokens + context - 1) / context;
      c.group = std::clamp<i64>(chunk / context, 1, c.sequences);
      c.piece = std::min(context, chunk);
      if (s.prefill_plan(c).total() <= machine_.memory) {
        return c;
      }
    }
    return {};
  }

  void plan(Subject const& s, i64 context) const {
    Batches const b = batches(s, context);
    if (b.rule == 0) {
      std::printf("%-19s %7lld | not one sequence fits\n", s.name.c_str(), static_cast<long long>(context));
      return;
    }
    DecodeCase const d{context, b.rule, options_.steps}, most{context, b.largest, options_.steps};
    PrefillCase const p = prefill_case(s, context);
    jet::MemoryPlan const m = s.decode_plan(d), n = s.prefill_plan(p);
    auto const rate = [&](DecodeCase const& c) {
      return static_cast<double>(c.batch) / s.decode_floor(machine_.ceilings, c);
    };
    std::printf("%-19s %7lld %9.2f | %5lld %8.0f %8.0f %8.0f %8.0f %8.0f | %10.0f | %5lld %10.0f | ",
                s.name.c_str(), static_cast<long long>(context), mib(s.cache_bytes(context)),
                static_cast<long long>(b.rule), mib(m.weights), mib(m.kv), mib(m.recurrent + m.conv),
                mib(m.scratch + m.logits + m.batch), mib(m.total()), rate(d), static_cast<long long>(b.largest),
                rate(most));
    if (p.piece > 0) {
      std::printf("%3lld x %6lld %8.0f %10.0f\n", static_cast<long long>(p.group), static_cast<long long>(p.piece),
                  mib(n.total()), static_cast<double>(p.tokens()) / s.prefill_floor(machine_.ceilings, p));
    } else {
      std::printf("does not fit\n");
    }
  }
  void plan_head() const {
    std::printf("memory %.1f GiB; reading %.0f GB/s, copying %.0f GB/s, products %.0f TFLOP/s\n",
                mib(machine_.memory) / 1024, machine_.ceilings.read / 1e9, machine_.ceilings.copy / 1e9,
                machine_.ceilings.tensor / 1e12);
    std::printf("%-19s %7s %9s | %5s %8s %8s %8s %8s %8s | %10s | %5s %10s | %12s %8s %10s\n", "model", "context",
                "cache/seq", "batch", "weights", "kv", "states", "scratch", "total", "floor", "most", "floor",
                "prefill", "total", "floor");
    std::printf("%-19s %7s %9s | %5s %8s %8s %8s %8s %8s | %10s | %5s %10s | %12s %8s %10s\n", "", "tokens", "MiB",
                "", "MiB", "MiB", "MiB", "MiB", "MiB", "tokens/s", "", "tokens/s", "seqs x piece", "MiB",
                "tokens/s");
  }

  void run(Subject const& s, i64 context) {
    Batches const b = batches(s, context);
    if (b.rule == 0) {
      std::fprintf(stderr, "%s at %lld: not one sequence fits\n", s.name.c_str(), static_cast<long long>(context));
      return;
    }
    std::vector<i64> wanted{b.rule};
    if (b.largest != b.rule && !options_.no_largest) {
      wanted.push_back(b.largest);
    }
    for (i64 const batch : wanted) {
      Json record{{"model", s.name},
                  {"context", context},
                  {"batch", batch},
                  {"state_dtype", s.state_dtype},
                  {"kv_dtype", s.kv_dtype}};
      if (Json const* const found = records_.find(record); found != nullptr && !options_.again) {
        record = *found;
      } else {
        measure_decode(s, b, batch, record);
      }
      if (!record.contains("prefill_tokens_per_s") && add_prefill(s, context, record)) {
        records_.put(record);
        compare();
      }
      print(*records_.find(record));
    }
  }

  void print_head() const {
    std::printf("%s, driver %s: reading %.0f GB/s, copying %.0f GB/s\n", machine_.device.c_str(),
                machine_.driver.c_str(), machine_.ceilings.read / 1e9, machine_.ceilings.copy / 1e9);
    std::printf("%-19s %7s %5s %9s | %10s %6s %7s %9s %7s %9s | %10s %6s %7s %9s\n", "model", "context", "batch",
                "cache/seq", "decode", "of", "over", "published", "ratio", "published", "prefill", "of", "over",
                "published");
    std::printf("%-19s %7s %5s %9s | %10s %6s %7s %9s %7s %9s | %10s %6s %7s %9s\n", "", "tokens", "", "MiB",
                "tokens/s", "floor", "ref.", "tokens/s", "", "over ref.", "tokens/s", "floor", "ref.", "over ref.");
  }
  void print_all() {
    print_head();
    auto& all = records_.all();
    std::stable_sort(all.begin(), all.end(), [](Json const& a, Json const& b) {
      return a.at("context").get<i64>() < b.at("context").get<i64>();
    });
    for (Json const& record : all) {
      print(record);
    }
    std::printf(
        "ref.: %s at the same context; both at the batch of the rule or both at the largest.\n"
        "Published figures are from an H100 in the authors' software (arXiv 2508.15884).\n",
        reference_.c_str());
  }

  void draw(std::filesystem::path const& file) {
    Panel decode{"decode, tokens/s", {}}, prefill{"prefill, tokens/s", {}};
    auto const add = [](Panel& panel, std::string const& name, Json const& record, char const* key) {
      auto at =
          std::find_if(panel.series.begin(), panel.series.end(), [&](Series const& s) { return s.name == name; });
      if (at == panel.series.end()) {
        at = panel.series.insert(panel.series.end(), Series{name, {}});
      }
      if (record.contains(key)) {
        at->points.emplace_back(record.at("context").get<double>(), record.at(key).get<double>());
      }
    };
    for (Json const& record : records_.all()) {
      if (record.at("batch_rule") != "largest") {
        add(decode, record.at("model"), record, "decode_tokens_per_s");
        add(prefill, record.at("model"), record, "prefill_tokens_per_s");
      }
    }
    for (Panel* const panel : {&decode, &prefill}) {
      for (Series& s : panel->series) {
        std::sort(s.points.begin(), s.points.end());
      }
    }
    jet::AtomicFile out(file);
    out.write(svg_chart({decode, prefill}, "context, tokens"));
    out.commit();
  }

 private:
  void measure_decode(Subject const& s, Batches const& b, i64 batch, Json& record) {
    DecodeCase const c{record.at("context").get<i64>(), batch, options_.steps};
    std::fprintf(stderr, "%s at %lld: decode of %lld sequences ... ", s.name.c_str(),
                 static_cast<long long>(c.context), static_cast<long long>(batch));
    double const step = s.decode(c);
    std::fprintf(stderr, "%.3f ms a step\n", 1e3 * step);
    record["batch_rule"] = batch != b.rule     ? "largest"
                           : b.rule < b.wanted ? "capped"
                           : b.is_published    ? "published"
                                               : "scaled";
    record["largest_batch"] = b.largest;
    record["cache_mib"] = rounded(mib(s.cache_bytes(c.context)), 0.01);
    record["decode_tokens_per_s"] = rounded(static_cast<double>(batch) / step, 0.1);
    record["roofline_percent"] = rounded(100 * s.decode_floor(machine_.ceilings, c) / step, 0.1);
    record["device"] = machine_.device;
    record["driver"] = machine_.driver;
    record["commit"] = options_.commit;
    record["date"] = options_.date;
    record["command"] = options_.command;
    records_.put(record);
    compare();
    record = *records_.find(record);
  }

  // Prefill does not depend on the batch of the decode: a record of the same model and context may have it already.
  // False when it does not fit.
  bool add_prefill(Subject const& s, i64 context, Json& record) {
    for (Json const& other : records_.all()) {
      bool const same = other.at("model") == s.name && other.at("context") == context && !options_.again &&
                        other.at("state_dtype") == s.state_dtype && other.at("kv_dtype") == s.kv_dtype &&
                        other.contains("prefill_tokens_per_s");
      if (same) {
        for (std::string const key :
             {"prefill_tokens", "prefill_chunk", "prefill_tokens_per_s", "prefill_roofline_percent"}) {
          if (other.contains(key)) {
            record[key] = other.at(key);
          }
        }
        return true;
      }
    }
    PrefillCase const c = prefill_case(s, context);
    if (c.piece == 0) {
      return false;
    }
    jet::ProgressBar bar(s.name + " at " + std::to_string(context) + ": prefill", c.tokens(), "tok");
    double const seconds = s.prefill(c, [&](i64 done) { bar.set(done); });
    bar.clear();
    record["prefill_tokens"] = c.tokens();
    record["prefill_chunk"] = c.group * c.piece;
    record["prefill_tokens_per_s"] = rounded(static_cast<double>(c.tokens()) / seconds, 0.1);
    if (machine_.ceilings.tensor > 0) {
      record["prefill_roofline_percent"] = rounded(100 * s.prefill_floor(machine_.ceilings, c) / seconds, 0.1);
    }
    return true;
  }

  // Fills in what compares records with each other and with what was published.
  void compare() {
    for (Json& record : records_.all()) {
      i64 const context = record.at("context").get<i64>();
      bool const largest = record.at("batch_rule") == "largest";
      auto const known = published().find(record.at("model").get<std::string>());
      if (known != published().end()) {
        Published const& p = known->second;
        if (context == 65536 && !largest && p.decode > 0) {
          record["published_tokens_per_s"] = p.decode;
          record["ratio_to_published"] = rounded(record.at("decode_tokens_per_s").get<double>() / p.decode, 0.01);
        }
        if (auto const at = p.decode_speedup.find(context); at != p.decode_speedup.end() && !largest) {
          record["published_speedup"] = at->second;
          record["published_prefill_speedup"] = p.prefill_speedup.at(context);
        }
      }
      for (Json const& other : records_.all()) {
        bool const other_largest =
            other.at("batch_rule") == "largest" || other.at("batch") == other.at("largest_batch");
        bool const same_rule = largest ? other_largest : other.at("batch_rule") != "largest";
        if (other.at("model") == reference_ && other.at("context") == context && same_rule) {
          record["speedup"] = rounded(
              record.at("decode_tokens_per_s").get<double>() / other.at("decode_tokens_per_s").get<double>(), 0.01);
          if (record.contains("prefill_tokens_per_s") && other.contains("prefill_tokens_per_s")) {
            record["prefill_speedup"] = rounded(
                record.at("prefill_tokens_per_s").get<double>() / other.at("prefill_tokens_per_s").get<double>(),
                0.01);
          }
        }
      }
    }
    records_.save();
  }

  static void print(Json const& record) {
    auto const number = [&](char const* key, int digits) { return number_text(record, key, digits); };
    std::printf("%-19s %7lld %5lld %9.2f | %10s %6s %7s %9s %7s %9s | %10s %6s %7s %9s\n",
                record.at("model").get<std::string>().c_str(), record.at("context").get<long long>(),
                record.at("batch").get<long long>(), record.at("cache_mib").get<double>(),
                number("decode_tokens_per_s", 1).c_str(), number("roofline_percent", 1).c_str(),
                number("speedup", 2).c_str(), number("published_tokens_per_s", 0).c_str(),
                number("ratio_to_published", 2).c_str(), number("published_speedup", 1).c_str(),
                number("prefill_tokens_per_s", 0).c_str(), number("prefill_roofline_percent", 1).c_str(),
                number("prefill_speedup", 2).c_str(), number("published_prefill_speedup", 2).c_str());
    std::fflush(stdout);
  }

  Options options_;
  Machine machine_;
  std::string reference_;
  Records records_;
};

// The machine that is there, or with --dry-run the one that is asked for.
Machine machine_of(Options const& options) {
  Machine machine;
  constexpr double gib = 1024.0 * 1024.0 * 1024.0;
  if (options.small) {
    machine = this_cpu();
  } else if (options.dry_run) {
    machine.device = options.device;
    machine.ceilings = options.device == "h200" ? jet::bench::h200_ceilings : jet::bench::h100_ceilings;
    machine.memory = static_cast<i64>((options.device == "h200" ? 138.3 : 78) * gib);
  } else {
#if defined(JET_EXAMPLE_CUDA)
    machine = gpu();
    machine.memory -= static_cast<i64>(gib);  // graphs, libraries
#else
    jet::fail(
        "this program was built for the CPU only: configure with -DJET_CUDA=ON, or give --small or --dry-run");
#endif
  }
  if (options.memory_gib > 0) {
    machine.memory = static_cast<i64>(options.memory_gib * gib);
  }
  return machine;
}

bool is_wanted(Options const& options, std::string const& model, i64 context) {
  return options.only.empty() || std::any_of(options.only.begin(), options.only.end(), [&](std::string const& o) {
           return o == model || o == model + "," + std::to_string(context);
         });
}

void run(Options options) {
  i64 const k = 1024;
  options.complete();
  if (options.contexts.empty()) {
    options.contexts = options.small ? std::vector<i64>{64, 128}
                                     : std::vector<i64>{4 * k, 8 * k, 16 * k, 32 * k, 64 * k, 128 * k, 256 * k};
  }
  std::vector<Subject> const subjects = options.small ? small_models() : large_models();
  std::set<std::string> known;
  for (Subject const& s : subjects) {
    known.insert(s.name);
  }
  for (std::string const& o : options.only) {
    JET_CHECK(known.count(o.substr(0, o.find(','))) == 1, "option --only ", o,
              ": expected a model or model,context; models are ", [&] {
                std::string names;
                for (std::string const& name : known) {
                  names += (names.empty() ? "" : ", ") + name;
                }
                return names;
              }());
  }
  Table table(options, machine_of(options), options.small ? "tiny-attention" : "Qwen3-1.7B");
  options.dry_run ? table.plan_head() : table.print_head();
  for (Subject const& s : subjects) {
    for (i64 const context : options.contexts) {
      if (is_wanted(options, s.name, context)) {
        options.dry_run ? table.plan(s, context) : table.run(s, context);
      }
    }
    if (s.release) {
      s.release();
    }
  }
  if (!options.dry_run) {
    std::printf("\n");
    table.print_all();
    if (!options.svg.empty()) {
      table.draw(options.svg);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  options.command = command_of(argc, argv);
  CLI::App app("Decode and prefill throughput against context length.");
  options.add_to(app, "a model, or model,context", "small models on the CPU");
  app.add_option("--contexts", options.contexts, "tokens, separated by commas")->delimiter(',');
  app.add_option("--svg", options.svg, "picture of all records");
  app.add_option("--memory", options.memory_gib, "GiB to plan for; 0: what is free");
  app.add_option("--device", options.device, "of --dry-run")
      ->check(CLI::IsMember({"h100", "h200"}))
      ->capture_default_str();
  app.add_flag("--no-largest", options.no_largest, "not at the largest batch");
  app.add_flag("--dry-run", options.dry_run, "print the memory plan and the floors");
  CLI11_PARSE(app, argc, argv);
  try {
    run(std::move(options));
  } catch (std::exception const& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
