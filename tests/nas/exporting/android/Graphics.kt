package android.graphics

/** Pixels as ARGB; the constructor is ours. */
class Bitmap(private val pixels: IntArray, val width: Int, val height: Int) {
    fun getPixels(into: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int) {
        for (row in 0 until height) {
            System.arraycopy(pixels, (y + row) * this.width + x, into, offset + row * stride, width)
        }
    }
}

abstract class ImageDecoder {
    abstract class Source

    abstract class ImageInfo

    abstract var allocator: Int

    companion object {
        const val ALLOCATOR_SOFTWARE = 1

        fun createSource(resolver: android.content.ContentResolver, uri: android.net.Uri): Source = TODO("$resolver $uri")

        /** Java's takes an OnHeaderDecodedListener, an interface with this one method. */
        fun decodeBitmap(source: Source, listener: (ImageDecoder, ImageInfo, Source) -> Unit): Bitmap =
            TODO("$source $listener")
    }
}
