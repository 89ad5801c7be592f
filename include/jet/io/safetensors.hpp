/// \file
/// The safetensors format (https://github.com/huggingface/safetensors): reading through a mapping, with everything
/// validated first, and atomic writing.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/io/atomic_file.hpp>
#include <jet/io/json.hpp>
#include <jet/io/mapped_file.hpp>

JET_NAMESPACE_BEGIN

/// Longest header that is read or written, in bytes: the limit of the reference implementation.
inline constexpr i64 safetensors_max_header = 100'000'000;
/// Highest rank that is read or written.
inline constexpr std::size_t safetensors_max_rank = 8;

/// The strings under `__metadata__`.
using SafetensorsMetadata = std::map<std::string, std::string, std::less<>>;

/// One tensor of a file. `data` points into the mapping, row-major and little-endian, and may be misaligned for its
/// type: copy with memcpy.
struct SafetensorsTensor {
  std::string name;
  /// The library's type, or `none` for a type that can only be listed or copied as bytes.
  DType dtype = DType::none;
  /// The file's name of the type, such as "BF16".
  std::string_view file_dtype;
  std::vector<i64> shape;
  std::byte const* data = nullptr;
  i64 bytes = 0;
};

namespace detail {

struct SafetensorsType {
  std::string_view name;
  i64 size;
  DType dtype;
};
inline constexpr SafetensorsType safetensors_types[] = {
    {"F64", 8, DType::f64},        {"F32", 4, DType::f32},      {"BF16", 2, DType::bf16}, {"F16", 2, DType::f16},
    {"F8_E4M3", 1, DType::f8e4m3}, {"F8_E5M2", 1, DType::none}, {"I64", 8, DType::i64},   {"I32", 4, DType::i32},
    {"I16", 2, DType::none},       {"I8", 1, DType::none},      {"U64", 8, DType::none},  {"U32", 4, DType::none},
    {"U16", 2, DType::none},       {"U8", 1, DType::u8},        {"BOOL", 1, DType::none},
};

inline std::string shape_text(std::span<i64 const> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    text += concat(i > 0 ? ", " : "", shape[i]);
  }
  return text + "]";
}

/// Bytes of a tensor, or nothing when the product of its non-zero extents and the size exceeds i64. Extents must
/// not be negative. The rule is the stricter one for empty tensors, so that strides computed from them cannot
/// overflow.
inline std::optional<i64> byte_count(std::span<i64 const> shape, i64 size) {
  bool empty = false;
  for (i64 const extent : shape) {
    if (extent == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(size, extent, &size)) {
      return std::nullopt;
    }
  }
  return empty ? 0 : size;
}

/// Reads and validates the header entry by entry: nothing is kept of a header that does not follow the format, and
/// what is kept is a small multiple of its text.
class SafetensorsHeader final : public JsonHandler {
 public:
  std::vector<SafetensorsTensor> tensors;
  SafetensorsMetadata metadata;

  SafetensorsHeader(std::string_view text, std::string_view what, std::span<std::byte const> data)
      : JsonHandler(text, what), data_(data) {}

  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("a boolean"); }
  bool number_integer(number_integer_t value) override { unexpected(concat(value)); }
  bool number_float(number_float_t, string_t const& text) override { unexpected(in_quotes(text, 40)); }
  bool number_unsigned(number_unsigned_t value) override {
    bool const fits = value <= static_cast<std::uint64_t>(std::numeric_limits<i64>::max());
    if (state_ == State::shape_items && fits) {
      if (tensor_.shape.size() == safetensors_max_rank) {
        fail_tensor("expected a rank of at most ", safetensors_max_rank, ", found more");
      }
      tensor_.shape.push_back(static_cast<i64>(value));
    } else if (state_ == State::offset_items && fits) {
      if (offset_count_ == 2) {
        fail_tensor("expected two data_offsets, found more");
      }
      offsets_[offset_count_++] = static_cast<i64>(value);
    } else {
      unexpected(concat(value));
    }
    return true;
  }
  bool string(string_t& value) override {
    if (state_ == State::dtype) {
      for (SafetensorsType const& type : safetensors_types) {
        if (type.name == value) {
          type_ = &type;
        }
      }
      if (type_ == nullptr) {
        fail_tensor("unknown dtype ", in_quotes(value), ", expected one of ", type_names());
      }
      state_ = State::tensor;
    } else if (state_ == State::metadata_value) {
      if (!metadata.emplace(key_, std::move(value)).second) {
        fail_here("__metadata__: duplicate key ", in_quotes(key_));
      }
      state_ = State::metadata_keys;
    } else {
      unexpected("the string " + in_quotes(value, 40));
    }
    return true;
  }

  bool start_object(std::size_t) override {
    switch (state_) {
      case State::start: state_ = State::names; break;
      case State::metadata: state_ = State::metadata_keys; break;
      case State::entry:
        state_ = State::tensor;
        tensor_ = {};
        tensor_.name = key_;
        type_ = nullptr;
        has_shape_ = false;
        has_offsets_ = false;
        offset_count_ = 0;
        break;
      default: unexpected("an object");
    }
    return true;
  }
  bool key(string_t& name) override {
    switch (state_) {
      case State::names:
        state_ = name == "__metadata__" ? State::metadata : State::entry;
        if (state_ == State::metadata && std::exchange(has_metadata_, true)) {
          fail_here("duplicate key \"__metadata__\"");
        }
        key_ = std::move(name);
        break;
      case State::metadata_keys:
        state_ = State::metadata_value;
        key_ = std::move(name);
        break;
      default:  // State::tensor: the only other state inside an object and before a key
        if (name == "dtype" && type_ == nullptr) {
          state_ = State::dtype;
        } else if (name == "shape" && !std::exchange(has_shape_, true)) {
          state_ = State::shape;
        } else if (name == "data_offsets" && !std::exchange(has_offsets_, true)) {
          state_ = State::offsets;
        } else {
          bool const known = name == "dtype" || name == "shape" || name == "data_offsets";
          fail_tensor(known ? "duplicate key " : "unknown key ", in_quotes(name));
        }
    }
    return true;
  }
  bool end_object() override {
    switch (state_) {
      case State::tensor:
        add_tensor();
        state_ = State::names;
        break;
      case State::metadata_keys: state_ = State::names; break;
      default: state_ = State::end;  // State::names
    }
    return true;
  }
  bool start_array(std::size_t) override {
    switch (state_) {
      case State::shape: state_ = State::shape_items; break;
      case State::offsets: state_ = State::offset_items; break;
      default: unexpected("an array");
    }
    return true;
  }
  bool end_array() override {
    if (state_ == State::offset_items && offset_count_ != 2) {
      fail_tensor("expected two data_offsets, found ", offset_count_);
    }
    state_ = State::tensor;
    return true;
  }

 private:
  /// What the next value or key belongs to.
  enum class State {
    start,
    names,
    entry,
    tensor,
    dtype,
    shape,
    shape_items,
    offsets,
    offset_items,
    metadata,
    metadata_keys,
    metadata_value,
    end
  };

  static std::string type_names() {
    std::string names;
    for (SafetensorsType const& type : safetensors_types) {
      names += concat(names.empty() ? "" : ", ", type.name);
    }
    return names;
  }

  template <class... Parts> [[noreturn]] void fail_tensor(Parts const&... parts) const {
    fail_here("tensor ", in_quotes(key_), ": ", parts...);
  }

  [[noreturn]] void unexpected(std::string_view found) const {
    switch (state_) {
      case State::entry: fail_tensor("expected an object, found ", found);
      case State::dtype: fail_tensor("dtype: expected a string, found ", found);
      case State::shape: fail_tensor("shape: expected an array, found ", found);
      case State::shape_items: fail_tensor("shape: expected a non-negative integer of 63 bits, found ", found);
      case State::offsets: fail_tensor("data_offsets: expected an array, found ", found);
      case State::offset_items:
        fail_tensor("data_offsets: expected a non-negative integer of 63 bits, found ", found);
      case State::metadata: fail_here("__metadata__: expected an object, found ", found);
      case State::metadata_value:
        fail_here("__metadata__: ", in_quotes(key_), ": expected a string, found ", found);
      default: fail_here("expected an object, found ", found);
    }
  }

  void add_tensor() {
    if (type_ == nullptr || !has_shape_ || !has_offsets_) {
      fail_tensor("has no ", type_ == nullptr ? "dtype" : !has_shape_ ? "shape" : "data_offsets");
    }
    auto const [begin, end] = offsets_;
    std::optional<i64> const bytes = byte_count(tensor_.shape, type_->size);
    if (!bytes) {
      fail_tensor("shape ", shape_text(tensor_.shape), " of ", type_->name, " overflows 64 bits");
    }
    if (begin > end) {
      fail_tensor("data_offsets begin at ", begin, ", after their end at ", end);
    }
    if (end > static_cast<i64>(data_.size())) {
      fail_tensor("data_offsets end at ", end, ", but the file has ", data_.size(), " bytes of data (truncated?)");
    }
    if (end - begin != *bytes) {
      fail_tensor("shape ", shape_text(tensor_.shape), " of ", type_->name, " expects ", *bytes,
                  " bytes, found data_offsets of ", end - begin, " bytes");
    }
    tensor_.dtype = type_->dtype;
    tensor_.file_dtype = type_->name;
    tensor_.data = data_.data() + begin;
    tensor_.bytes = *bytes;
    tensors.push_back(std::move(tensor_));
  }

  std::span<std::byte const> data_;
  State state_ = State::start;
  std::string key_;
  SafetensorsTensor tensor_;
  SafetensorsType const* type_ = nullptr;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  bool has_metadata_ = false;
  i64 offsets_[2]{};
  std::size_t offset_count_ = 0;
};

}  // namespace detail

/// A safetensors file. The constructor maps it and validates all of it: the header's length and syntax, every
/// tensor's dtype, shape and bounds, and that the tensors cover the data exactly, with no overlap, hole or rest.
/// Copies share the mapping.
class SafetensorsFile {
 public:
  /// Throws jet::Error that names the file, the tensor, what was expected and what was found.
  explicit SafetensorsFile(std::filesystem::path const& path) : map_(map_file(path)), what_(path.string()) {
    parse(map_->bytes());
  }

  /// The same from memory that outlives the object. `what` names it in errors.
  static SafetensorsFile from_memory(std::span<std::byte const> bytes, std::string_view what) {
    SafetensorsFile file;
    file.what_ = what;
    file.parse(bytes);
    return file;
  }

  /// The name of the file for messages.
  std::string const& what() const { return what_; }
  /// In the order of the data.
  std::vector<SafetensorsTensor> const& tensors() const { return tensors_; }
  SafetensorsMetadata const& metadata() const { return metadata_; }

  /// The tensor, or nullptr.
  SafetensorsTensor const* find(std::string_view name) const {
    auto const at = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                     [&](std::size_t i, std::string_view n) { return tensors_[i].name < n; });
    return at != by_name_.end() && tensors_[*at].name == name ? &tensors_[*at] : nullptr;
  }
  /// The tensor. Throws jet::Error when it is absent or of a type that the library cannot read.
  SafetensorsTensor const& at(std::string_view name) const {
    SafetensorsTensor const* const tensor = find(name);
    JET_CHECK(tensor != nullptr, what_, ": tensor ", detail::in_quotes(name), ": not in the file");
    JET_CHECK(tensor->dtype != DType::none, what_, ": tensor ", detail::in_quotes(name), ": dtype ",
              tensor->file_dtype, " cannot be read");
    return *tensor;
  }

 private:
  SafetensorsFile() = default;

  void parse(std::span<std::byte const> bytes) {
    JET_CHECK(bytes.size() >= 8, what_, ": expected a safetensors file of at least 8 bytes, found ", bytes.size());
    std::uint64_t length = 0;
    for (std::size_t i = 0; i < 8; ++i) {
      length |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
    }
    JET_CHECK(length <= static_cast<std::uint64_t>(safetensors_max_header), what_, ": header length ", length,
              " is larger than the limit of ", safetensors_max_header, " bytes (not a safetensors file?)");
    JET_CHECK(length <= bytes.size() - 8, what_, ": header length ", length, " is larger than the ",
              bytes.size() - 8, " bytes that follow it (truncated?)");
    std::span<std::byte const> const data = bytes.subspan(8 + static_cast<std::size_t>(length));
    std::string_view const text(reinterpret_cast<char const*>(bytes.data()) + 8, static_cast<std::size_t>(length));
    std::string const what = concat(what_, ": header");
    JET_CHECK(text.starts_with('{'), what, ": expected '{' as the first character, found ",
              detail::in_quotes(text.substr(0, 1)));
    detail::SafetensorsHeader header(text, what, data);
    header.run();
    tensors_ = std::move(header.tensors);
    metadata_ = std::move(header.metadata);
    check_cover(data);
    index_names();
  }

  void check_cover(std::span<std::byte const> data) {
    // By offset; an empty tensor comes before the tensor that begins where it lies.
    std::stable_sort(tensors_.begin(), tensors_.end(), [](SafetensorsTensor const& a, SafetensorsTensor const& b) {
      return a.data != b.data ? a.data < b.data : a.bytes < b.bytes;
    });
    i64 covered = 0;
    SafetensorsTensor const* previous = nullptr;
    for (SafetensorsTensor const& tensor : tensors_) {
      i64 const begin = tensor.data - data.data();
      if (begin < covered) {
        fail(what_, ": tensor ", detail::in_quotes(tensor.name), " begins at ", begin, " and overlaps tensor ",
             detail::in_quotes(previous->name), ", which ends at ", covered);
      }
      if (begin > covered) {
        fail(what_, ": tensor ", detail::in_quotes(tensor.name), " begins at ", begin, ", expected ", covered,
             ": bytes between them belong to no tensor");
      }
      covered = begin + tensor.bytes;
      previous = &tensor;
    }
    JET_CHECK(covered == static_cast<i64>(data.size()), what_, ": the tensors end at ", covered,
              ", but the file has ", data.size(), " bytes of data");
  }

  void index_names() {
    by_name_.resize(tensors_.size());
    for (std::size_t i = 0; i < by_name_.size(); ++i) {
      by_name_[i] = i;
    }
    std::sort(by_name_.begin(), by_name_.end(),
              [&](std::size_t a, std::size_t b) { return tensors_[a].name < tensors_[b].name; });
    for (std::size_t i = 1; i < by_name_.size(); ++i) {
      std::string const& name = tensors_[by_name_[i]].name;
      JET_CHECK(name != tensors_[by_name_[i - 1]].name, what_, ": tensor ", detail::in_quotes(name),
                ": the name occurs twice");
    }
  }

  std::shared_ptr<MappedFile const> map_;  // null when the memory is borrowed
  std::string what_;
  std::vector<SafetensorsTensor> tensors_;
  std::vector<std::size_t> by_name_;
  SafetensorsMetadata metadata_;
};

/// A tensor to be written: its bytes at `data`, row-major, or produced by `fill`, exactly one of them. `fill` gets
/// a span of the tensor's size when its turn comes; one such buffer exists at a time.
struct SafetensorsSource {
  std::string name;
  DType dtype = DType::none;
  std::vector<i64> shape;
  void const* data = nullptr;
  std::function<void(std::span<std::byte>)> fill;
};

namespace detail {

/// Bytes of a source after all checks on it. `what` names the file.
inline i64 checked_bytes(SafetensorsSource const& source, std::string_view what) {
  std::string const where = concat(what, ": tensor ", in_quotes(source.name));
  JET_CHECK(!source.name.empty() && source.name != "__metadata__", where, ": not a name for a tensor");
  JET_CHECK(size_of(source.dtype) > 0, where, ": dtype is not stated");
  JET_CHECK(source.shape.size() <= safetensors_max_rank, where, ": expected a rank of at most ",
            safetensors_max_rank, ", found ", source.shape.size());
  for (i64 const extent : source.shape) {
    JET_CHECK(extent >= 0, where, ": negative extent in shape ", shape_text(source.shape));
  }
  std::optional<i64> const bytes = byte_count(source.shape, size_of(source.dtype));
  JET_CHECK(bytes.has_value(), where, ": shape ", shape_text(source.shape), " overflows 64 bits");
  bool const has_data = source.data != nullptr;
  bool const has_fill = source.fill != nullptr;
  JET_CHECK(!(has_data && has_fill), where, ": has both data and a callback");
  JET_CHECK(has_data || has_fill || *bytes == 0, where, ": has neither data nor a callback");
  return *bytes;
}

/// A string as JSON. Throws jet::Error when it is not valid UTF-8.
inline std::string json_string(std::string_view text, std::string_view what) {
  try {
    return Json(text).dump();
  } catch (Json::exception const&) {
    fail(what, ": ", in_quotes(text), " is not valid UTF-8");
  }
}

/// The length field and the header, padded so that the data begins at a multiple of 8 bytes.
inline std::string safetensors_header(std::span<SafetensorsSource const> tensors,
                                      SafetensorsMetadata const& metadata, std::string_view what) {
  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (auto const& [key, value] : metadata) {
      header += concat(header.back() == '{' ? "" : ",", json_string(key, what), ":", json_string(value, what));
    }
    header += "}";
  }
  std::unordered_set<std::string_view> names;
  i64 offset = 0;
  for (SafetensorsSource const& source : tensors) {
    i64 const begin = offset;
    JET_CHECK(!__builtin_add_overflow(offset, checked_bytes(source, what), &offset), what, ": tensor ",
              in_quotes(source.name), ": the sizes overflow 64 bits");
    JET_CHECK(names.insert(source.name).second, what, ": tensor ", in_quotes(source.name),
              ": the name occurs twice");
    std::string_view type;
    for (SafetensorsType const& candidate : safetensors_types) {
      type = candidate.dtype == source.dtype ? candidate.name : type;
    }
    header += concat(header.size() == 1 ? "" : ",", json_string(source.name, what), ":{\"dtype\":\"", type,
                     "\",\"shape\":", shape_text(source.shape), ",\"data_offsets\":[", begin, ",", offset, "]}");
  }
  header += "}";
  header.append((8 - header.size() % 8) % 8, ' ');
  JET_CHECK(static_cast<i64>(header.size()) <= safetensors_max_header, what, ": the header would have ",
            header.size(), " bytes, more than the limit of ", safetensors_max_header);
  std::string length;
  for (std::size_t i = 0; i < 8; ++i) {
    length += static_cast<char>((header.size() >> (8 * i)) & 0xff);
  }
  return length + header;
}

/// Writes header and data to an open file, without finishing it.
inline void write_safetensors(AtomicFile& file, std::span<SafetensorsSource const> tensors,
                              SafetensorsMetadata const& metadata) {
  std::string const what = file.target().string();
  file.write(safetensors_header(tensors, metadata, what));
  std::vector<std::byte> buffer;
  for (SafetensorsSource const& source : tensors) {
    auto const bytes = static_cast<std::size_t>(checked_bytes(source, what));
    if (source.fill) {
      buffer.assign(bytes, std::byte{0});
      source.fill(buffer);
      file.write(buffer);
    } else {
      file.write(std::span(static_cast<std::byte const*>(source.data), bytes));
    }
  }
}

}  // namespace detail

/// Writes a file, tensors in the given order. The file appears under its name only when it is complete and on disk;
/// on any error, one thrown by a callback included, a previous file of that name is untouched. Throws jet::Error
/// (or what the callback throws).
inline void write_safetensors(std::filesystem::path const& path, std::span<SafetensorsSource const> tensors,
                              SafetensorsMetadata const& metadata = {}) {
  AtomicFile file(path);
  detail::write_safetensors(file, tensors, metadata);
  file.commit();
}

JET_NAMESPACE_END
