/* Prints sizes and offsets of the structures of librknnrt, from our own transcription. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum kind { KIND };

struct MatmulInfo {
    int32_t m, k, n;
    enum kind matmul_type;
    int16_t b_layout, b_quant_type, ac_layout, ac_quant_type;
    int32_t iommu_domain_id;
    int16_t group_size;
    int8_t reserved[34];
};
struct MatmulTensorAttr {
    char name[256];
    uint32_t n_dims, dims[16], size;
    enum kind tensor_type;
};
struct MatmulIoAttr { struct MatmulTensorAttr a, b, c; };
struct MatmulShape { int32_t m, k, n; };
struct QuantParams {
    char name[256];
    float *scale;
    int32_t scale_len;
    int32_t *zp;
    int32_t zp_len;
};
struct TensorMem {
    void *virt_addr;
    uint64_t phys_addr;
    int32_t fd, offset;
    uint32_t size, flags;
    void *priv_data;
};
struct TensorAttr {
    uint32_t index, n_dims, dims[16];
    char name[256];
    uint32_t n_elems, size;
    enum kind fmt, tensor_type, qnt_type;
    int8_t fl;
    int32_t zp;
    float scale;
    uint32_t w_stride, size_with_stride;
    uint8_t pass_through;
    uint32_t h_stride;
};
struct MemSize {
    uint32_t total_weight_size, total_internal_size;
    uint64_t total_dma_allocated_size;
    uint32_t total_sram_size, free_sram_size, reserved[10];
};
struct SdkVersion { char api_version[256], drv_version[256]; };
struct PerfRun { int64_t run_duration; };

#define SIZE(type) printf("%s %zu\n", #type, sizeof(struct type))
#define FIELD(type, field) printf("%s.%s %zu\n", #type, #field, offsetof(struct type, field))

int main(void) {
    SIZE(MatmulInfo);
    FIELD(MatmulInfo, m); FIELD(MatmulInfo, k); FIELD(MatmulInfo, n); FIELD(MatmulInfo, matmul_type);
    FIELD(MatmulInfo, b_layout); FIELD(MatmulInfo, b_quant_type); FIELD(MatmulInfo, ac_layout);
    FIELD(MatmulInfo, ac_quant_type); FIELD(MatmulInfo, iommu_domain_id); FIELD(MatmulInfo, group_size);
    FIELD(MatmulInfo, reserved);
    SIZE(MatmulTensorAttr);
    FIELD(MatmulTensorAttr, name); FIELD(MatmulTensorAttr, n_dims); FIELD(MatmulTensorAttr, dims);
    FIELD(MatmulTensorAttr, size); FIELD(MatmulTensorAttr, tensor_type);
    SIZE(MatmulIoAttr);
    FIELD(MatmulIoAttr, a); FIELD(MatmulIoAttr, b); FIELD(MatmulIoAttr, c);
    SIZE(MatmulShape);
    FIELD(MatmulShape, m); FIELD(MatmulShape, k); FIELD(MatmulShape, n);
    SIZE(QuantParams);
    FIELD(QuantParams, name); FIELD(QuantParams, scale); FIELD(QuantParams, scale_len); FIELD(QuantParams, zp);
    FIELD(QuantParams, zp_len);
    SIZE(TensorMem);
    FIELD(TensorMem, virt_addr); FIELD(TensorMem, phys_addr); FIELD(TensorMem, fd); FIELD(TensorMem, offset);
    FIELD(TensorMem, size); FIELD(TensorMem, flags); FIELD(TensorMem, priv_data);
    SIZE(TensorAttr);
    FIELD(TensorAttr, index); FIELD(TensorAttr, n_dims); FIELD(TensorAttr, dims); FIELD(TensorAttr, name);
    FIELD(TensorAttr, n_elems); FIELD(TensorAttr, size); FIELD(TensorAttr, fmt); FIELD(TensorAttr, tensor_type);
    FIELD(TensorAttr, qnt_type); FIELD(TensorAttr, fl); FIELD(TensorAttr, zp); FIELD(TensorAttr, scale);
    FIELD(TensorAttr, w_stride); FIELD(TensorAttr, size_with_stride); FIELD(TensorAttr, pass_through);
    FIELD(TensorAttr, h_stride);
    SIZE(MemSize);
    FIELD(MemSize, total_weight_size); FIELD(MemSize, total_internal_size);
    FIELD(MemSize, total_dma_allocated_size); FIELD(MemSize, total_sram_size); FIELD(MemSize, free_sram_size);
    FIELD(MemSize, reserved);
    SIZE(SdkVersion);
    FIELD(SdkVersion, api_version); FIELD(SdkVersion, drv_version);
    SIZE(PerfRun);
    FIELD(PerfRun, run_duration);
    return 0;
}
