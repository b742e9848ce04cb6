package android.content

abstract class ContentResolver

abstract class Context {
    abstract val assets: android.content.res.AssetManager
    abstract val filesDir: java.io.File
}
