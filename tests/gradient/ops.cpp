// Gradients of the ops that blocks reach only in one form: norms in both orders, products with biases, the loss.
#include <jet/op/embedding.hpp>
#include <jet/op/linear.hpp>
#include <jet/op/loss.hpp>
#include <jet/op/norm.hpp>

#include "gradient_support.hpp"

namespace {

using namespace tests;
namespace op = jet::op;

// A function of `in` with one output (rows, cols), run by `forward(ctx, inputs, out)`; gradients of all inputs by
// `backward(ctx, inputs, dy, gradients)`. loss = <out, dy>.
struct OpCase {
  using Tensors = std::vector<Activation<F64>>;
  using Forward = std::function<void(jet::Context<F64>&, Tensors const&, View const&)>;
  using Backward = std::function<void(jet::Context<F64>&, Tensors const&, View const&, Tensors const&)>;
  std::vector<Matrix> in;
  i64 rows, cols;
  Forward forward;
  Backward backward;
  std::vector<bool> is_parameter;  // whose gradient is added to; others are overwritten

  Worst compare() {
    F64 backend{jet::BackendOptions{.threads = 2}};
    Matrix const dy = normal(rows, cols, 99);
    auto const tensors = [&] {
      Tensors t;
      for (Matrix const& m : in) {
        t.emplace_back(backend, m, DType::f64);
      }
      return t;
    };
    auto const loss = [&] {
      Tensors const t = tensors();
      Activation<F64> const out(backend, rows, cols, DType::f64);
      run_planned(backend, one(rows), [&](auto& ctx) { forward(ctx, t, out.view()); });
      return dot(out.values().data, dy.data);
    };
    Tensors const t = tensors();
    Tensors gradients;
    for (std::size_t i = 0; i < in.size(); ++i) {
      gradients.emplace_back(backend, in[i].rows, in[i].cols, DType::f64);
      if (is_parameter.at(i)) {
        gradients.back().set(filled(in[i].rows, in[i].cols, 2.5));
      }
    }
    Activation<F64> const d(backend, dy, DType::f64);
    run_planned(backend, one(rows), [&](auto& ctx) { backward(ctx, t, d.view(), gradients); });
    Worst worst;
    for (std::size_t i = 0; i < in.size(); ++i) {
      Vector g = gradients[i].values().data;
      for (double& v : g) {
        v -= is_parameter[i] ? 2.5 : 0;
      }
      compare_differences(std::to_string(i), in[i].data, g, loss, worst);
    }
    return worst;
  }
};

void check(OpCase c, double bound = difference_bound) {
  Worst const worst = c.compare();
  INFO("worst: ", worst.error, " of input ", worst.where);
  CHECK(worst.error <= bound);
}

i64 const tokens[] = {1, 3, 63, 130};

void copy(jet::Context<F64>& ctx, View const& from, View const& to) {
  jet::copy_rows(ctx, from, to);
}

TEST_CASE("RmsNorm") {
  for (i64 const t : tokens) {
    for (i64 const n : {i64{1}, i64{7}, i64{130}}) {
      op::RmsNorm const norm{1e-3};
      check({{normal(1, n, 1), normal(t, n, 2)},
             t,
             n,
             [&](auto& ctx, auto const& x, View const& y) { ctx.run(norm, x[0].slot({n}), x[1].view(), y); },
             [&](auto& ctx, auto const& x, View const& dy, auto const& d) {
               ctx.run(op::Backward{norm}, x[0].slot({n}), x[1].view(), dy, d[1].view(), d[0].slot({n}));
             },
             {true, false}});
    }
  }
}

TEST_CASE("AddRmsNorm: the gradient is added to that of the sum from elsewhere") {
  i64 const t = 17, n = 9;
  // y = norm(x) + x: what goes on beside the norm has the gradient dy
  check({{normal(1, n, 1), normal(t, n, 2)},
         t,
         n,
         [&](auto& ctx, auto const& x, View const& y) {
           ctx.run(op::RmsNorm{}, x[0].slot({n}), x[1].view(), y);
           ctx.run(op::Add{}, x[1].view(), y);
         },
         [&](auto& ctx, auto const& x, View const& dy, auto const& d) {
           copy(ctx, dy, d[1].view());
           ctx.run(op::Backward{op::AddRmsNorm{}}, x[0].slot({n}), x[1].view(), dy, d[1].view(), d[0].slot({n}));
         },
         {true, false}});
}

TEST_CASE("norms per head, in place") {
  for (i64 const t : tokens) {
    i64 const heads = 3, head = 5, n = heads * head;
    op::HeadNorm const norm{heads, head, 1e-3};
    check({{normal(1, head, 1), normal(t, n, 2)},
           t,
           n,
           [&](auto& ctx, auto const& x, View const& y) {
             copy(ctx, x[1].view(), y);
             ctx.run(norm, x[0].slot({head}), y);
           },
           [&](auto& ctx, auto const& x, View const& dy, auto const& d) {
             copy(ctx, dy, d[1].view());
             ctx.run(op::Backward{norm}, x[0].slot({head}), x[1].view(), d[1].view(), d[0].slot({head}));
           },
           {true, false}});
    for (bool const silu : {false, true}) {
      op::L2Norm const l2{heads, head, 1e-2, silu};
      check({{normal(t, n, 2)},
             t,
             n,
             [&](auto& ctx, auto const& x, View const& y) {
               copy(ctx, x[0].view(), y);
               ctx.run(l2, y);
             },
             [&](auto& ctx, auto const& x, View const& dy, auto const& d) {
               copy(ctx, dy, d[0].view());
               ctx.run(op::Backward{l2}, x[0].view(), d[0].view());
             },
             {false}});
    }
  }
}

TEST_CASE("GatedRmsNorm: norm first, gate first") {
  for (i64 const t : tokens) {
    for (bool const gate_first : {false, true}) {
      i64 const heads = 3, head = 5, n = heads * head, weights = gate_first ? n : head;
      op::GatedRmsNorm const norm{heads, head, 1e-3, gate_first};
      CAPTURE(gate_first);
      check({{normal(1, weights, 1), normal(t, n, 2), normal(t, n, 3)},
             t,
             n,
             [&](auto& ctx, auto const& x, View const& y) {
               ctx.run(norm, x[0].slot({weights}), x[1].view(), x[2].view(), y);
             },
             [&](auto& ctx, auto const& x, View const& dy, auto const& d) {
               ctx.run(op::Backward{norm}, x[0].slot({weights}), x[1].view(), x[2].view(), dy, d[1].view(),
                       d[2].view(), d[0].slot({weights}));
             },
             {true, false, false}});
    }
  }
}

TEST_CASE("Linear with a bias, over more than one rectangle and more than one block of the sum") {
  for (i64 const t : {i64{1}, i64{300}}) {
    i64 const in = 201, out = 270;
    check({{normal(out, in, 1, 0.1), normal(1, out, 2), normal(t, in, 3)},
           t,
           out,
           [&](auto& ctx, auto const& x, View const& y) {
             ctx.run(op::Linear{}, x[0].slot({out, in}), x[1].slot({out}), x[2].view(), y);
           },
           [&](auto& ctx, auto const& x, View const& dy, auto const& d) {
             ctx.run(op::Backward{op::Linear{}}, x[0].slot({out, in}), x[2].view(), dy, d[2].view(),
                     d[0].slot({out, in}), d[1].slot({out}));
           },
           {true, true, false}},
          1e-7);  // the loss is a sum of 81000 terms
  }
}

TEST_CASE("Embedding: rows of tokens that occur twice are summed, others untouched") {
  F64 backend;
  i64 const t = 5, n = 300, vocab = 7;
  std::vector<std::int32_t> const ids{2, 0, 2, 6, 2};
  Matrix const dx = normal(t, n, 1), before = normal(vocab, n, 2);
  Activation<F64> const dxa(backend, dx, DType::f64), table(backend, before, DType::f64);
  run_planned(backend, one(t), [&](auto& ctx) {
    ctx.run(op::Backward{op::Embedding{}}, static_cast<std::int32_t const*>(ids.data()), dxa.view(),
            table.slot({vocab, n}));
  });
  Matrix expected = before;
  for (i64 i = 0; i < t; ++i) {
    for (i64 c = 0; c < n; ++c) {
      expected.at(ids[static_cast<std::size_t>(i)], c) += dx.at(i, c);
    }
  }
  CHECK(relative_rms(table.values(), expected) <= 1e-15);
}

TEST_CASE("CrossEntropy: loss and gradient, ignored rows, logits beyond the range of exp") {
  F64 backend;
  i64 const rows = 5, vocab = 37;
  std::vector<std::int32_t> const targets{3, -100, 36, 0, 5};
  Matrix logits = normal(rows, vocab, 1, 3);
  for (i64 v = 0; v < vocab; ++v) {
    logits.at(4, v) = 900 + 0.5 * static_cast<double>(v);
  }
  auto const run = [&](Matrix const& x, Matrix* gradient) {
    Activation<F64> const a(backend, x, DType::f64);
    std::vector<double> losses(5, 1e9);
    run_planned(backend, one(rows), [&](auto& ctx) {
      ctx.run(op::CrossEntropy{0.25}, a.view(), static_cast<std::int32_t const*>(targets.data()), losses.data());
    });
    if (gradient != nullptr) {
      *gradient = a.values();
    }
    CHECK(losses[1] == 0);
    return 0.25 * (losses[0] + losses[1] + losses[2] + losses[3] + losses[4]);
  };
  Matrix gradient;
  run(logits, &gradient);
  Worst worst;
  compare_differences(
      "logits", logits.data, gradient.data, [&] { return run(logits, nullptr); }, worst);
  CHECK(worst.error <= difference_bound);
  for (i64 v = 0; v < vocab; ++v) {
    CHECK(gradient.at(1, v) == 0);
  }
}

}  // namespace
