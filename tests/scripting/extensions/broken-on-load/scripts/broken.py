from modules.sd_hijack_optimizations import sub_quad_attention  # noqa: F401
