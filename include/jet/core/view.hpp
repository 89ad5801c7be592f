/// \file
/// Type-erased tensors: View for activations, Slot for one parameter or state tensor. Pointer, dtype, extents and
/// strides, all 64-bit. They own nothing and are cheap to copy.
#pragma once

#include <type_traits>

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/shape.hpp>

JET_NAMESPACE_BEGIN

/// Strides count elements. A null View has data == nullptr and stands for "absent".
struct View {
  void* data = nullptr;
  DType dtype = DType::none;
  int rank = 0;
  i64 extent[4]{};
  i64 stride[4]{};

  View() = default;
  /// A dense row-major tensor.
  JET_HD View(void* pointer, DType type, Shape const& shape) : data(pointer), dtype(type), rank(shape.rank) {
    i64 step = 1;
    for (int i = rank - 1; i >= 0; --i) {
      extent[i] = shape.extent[i];
      stride[i] = step;
      step *= extent[i];
    }
  }

  JET_HD explicit operator bool() const { return data != nullptr; }
  /// Rows of a (tokens, width) activation.
  JET_HD i64 tokens() const { return extent[0]; }
  /// Columns of a (tokens, width) activation.
  JET_HD i64 width() const { return rank > 0 ? extent[rank - 1] : 0; }
  JET_HD i64 numel() const {
    i64 n = rank > 0 ? 1 : 0;
    for (int i = 0; i < rank; ++i) {
      n *= extent[i];
    }
    return n;
  }

  /// The data as T*. T must be the stored type.
  template <class T> JET_HD T* as() const {
    JET_ASSERT(dtype == dtype_of<std::remove_const_t<T>>);
    return static_cast<T*>(data);
  }
  /// Address of element (i, 0, ...), i counted in strides of axis 0.
  template <class T> JET_HD T* row(i64 i) const { return as<T>() + i * stride[0]; }
  JET_HD void* row_bytes(i64 i) const { return static_cast<char*>(data) + i * stride[0] * size_of(dtype); }

  /// Rows [first, first + count) of a rank-2 view.
  JET_HD View rows(i64 first, i64 count) const {
    View v = *this;
    v.data = row_bytes(first);
    v.extent[0] = count;
    return v;
  }
  /// Columns [first, first + count) of a rank-2 view whose rows are dense.
  JET_HD View columns(i64 first, i64 count) const {
    View v = *this;
    v.data = static_cast<char*>(data) + first * size_of(dtype);
    v.extent[1] = count;
    return v;
  }
};

/// One parameter or state tensor. For state, axis 0 is the pool's slot. A null Slot is an absent row.
/// `scale` points to the scales of a quantised tensor (fp8 keys and values, quantised weights), null otherwise.
struct Slot : View {
  void* scale = nullptr;
  DType scale_dtype = DType::none;

  Slot() = default;
  JET_HD Slot(void* pointer, DType type, Shape const& shape) : View(pointer, type, shape) {}
};

JET_NAMESPACE_END
